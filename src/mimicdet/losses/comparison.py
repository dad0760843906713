"""Distillation losses read this: student and teacher side by side on a batch.

B images, S common sites over all levels (RoI teachers: one row of N boxes, B = 1), n boxes at a site, K classes,
M objects (padded), P positives, C channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from torch import Tensor


class Positives(NamedTuple):
    """Holds the sites that belong to objects, and what both sides say of those objects there."""

    group: Tensor  # (P,) int64, image * M + object
    teacher_logits: Tensor  # (P,) of the object's class
    student_logits: Tensor
    teacher_iou: Tensor  # (P,) of the box with the object's
    student_iou: Tensor


@dataclass(frozen=True)
class LevelPair:
    """Holds the features of one level that both have, and the scores there."""

    teacher: Tensor  # (B, C, H, W)
    student: Tensor  # (B, C, H, W), through the adapter
    teacher_scores: Tensor  # (B, H W, n, K) in 0..1
    student_scores: Tensor  # (B, H W, n, K)
    valid: Tensor  # (B, H W) bool, False on padding

    @cached_property
    def feature_difference(self) -> Tensor:
        """Returns F_dif (B, H W), the mean over the channels of the squared difference; several losses read it."""
        return (self.teacher - self.student).square().mean(1).flatten(1)


class CrossedHeads(NamedTuple):
    """Holds what the teacher's head makes of the student's hidden features, and of its own; A its positions."""

    own_logits: Tensor  # (B, A, K)
    own_boxes: Tensor  # (B, A, 4)
    logits: Tensor  # (B, A, K) of the student's hidden features
    boxes: Tensor  # (B, A, 4)
    valid: Tensor  # (B, A) bool
    box_weight: Tensor  # (B, A) where boxes count: the teacher's best score, 0 for boxes without an area
    weight_sum: Tensor  # 0-d, of ``box_weight`` over all processes


@dataclass(frozen=True)
class Comparison:
    """Holds student and teacher on one batch."""

    objects: Tensor  # (B, M) bool, real objects that are no crowd regions
    known: Tensor  # (K,) bool, the student's classes that the teacher has
    teacher_logits: Tensor  # (B, S, n, K)
    student_logits: Tensor  # (B, S, n, K)
    valid: Tensor  # (B, S) bool, False on padding
    positives: Positives
    positive_count: Tensor  # 0-d, positive sites over all processes
    teacher_lead: Tensor  # 0-d, the teacher's score less the student's, mean over the positives; NaN for none
    levels: Sequence[LevelPair] = ()  # where a loss reads them
    crossed: Callable[[], CrossedHeads] | None = None  # computed when asked for, where a loss reads them
