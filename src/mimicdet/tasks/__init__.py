"""What is trained: a task takes a batch and gives losses. Teachers live here, not in the detector."""

from mimicdet.tasks.build import build_task

__all__ = ["build_task"]
