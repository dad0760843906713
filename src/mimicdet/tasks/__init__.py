"""Defines what is trained: a task takes a batch and gives losses. Teachers live here, not in the detector."""

from mimicdet.tasks.build import build_task
from mimicdet.tasks.task import Task

__all__ = ["Task", "build_task"]
