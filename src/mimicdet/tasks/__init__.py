"""What is trained: a task takes a batch and gives losses. Teachers live here, not in the detector."""

from mimicdet.tasks.build import build_task
from mimicdet.tasks.build_mimic import finest_backbone_level

__all__ = ["build_task", "finest_backbone_level"]
