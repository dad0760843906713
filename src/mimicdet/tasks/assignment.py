"""Which positions belong to an object by a teacher's own rule, on the canvas that the student sees.

B images, n anchors of a cell, the teacher's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from mimicdet.assign import match_overlapping
from mimicdet.data.batch import Batch
from mimicdet.models.trunk import level_shapes
from mimicdet.teachers.match_maps import TeacherMaps

Assignment = Callable[[Batch, dict[int, TeacherMaps]], dict[int, Tensor]]
"""Batch, the teacher's maps by level number -> (B, cells, n) by level number, index of the object of each position,
below 0 for none."""

LevelAssignment = Callable[[Batch, Sequence[tuple[int, int]], tuple[int, int]], Tensor]
"""Batch, shapes of the levels, canvas -> (B, A), the same of all levels."""


class TeacherAssignment:
    """A static rule, which knows places and objects alone, on levels of the student's canvas.

    Args:
        rule: assigns objects to the positions of all of the teacher's levels.
        level_numbers: of the teacher.
        per_cell: anchors of a cell, the teacher's.
    """

    def __init__(self, *, rule: LevelAssignment, level_numbers: Sequence[int], per_cell: int) -> None:
        self.rule = rule
        self.level_numbers = tuple(level_numbers)
        self.per_cell = per_cell

    def __call__(self, batch: Batch, maps: dict[int, TeacherMaps]) -> dict[int, Tensor]:
        """See ``Assignment``; ``maps`` plays no part."""
        height, width = batch.images.shape[2:]
        shapes = level_shapes(height, width, self.level_numbers)
        match = self.rule(batch, shapes, (height, width))
        found: dict[int, Tensor] = {}
        start = 0
        for number, (h, w) in zip(self.level_numbers, shapes, strict=True):
            count = h * w * self.per_cell
            found[number] = match[:, start : start + count].unflatten(1, (h * w, self.per_cell))
            start += count
        return found


class OverlapAssignment:
    """MimicDet's rule, which depends on its boxes: a position belongs to the object that its box overlaps best.

    Its S-head learns by this rule (section 3.3). The refinement module's, by the places' centres, leaves one position
    to most objects, and one has no order that Rank Mimicking could take over.

    Args:
        positive_iou: least overlap.
    """

    def __init__(self, *, positive_iou: float) -> None:
        self.positive_iou = positive_iou

    def __call__(self, batch: Batch, maps: dict[int, TeacherMaps]) -> dict[int, Tensor]:
        """See ``Assignment``."""
        found = {}
        for number, level in maps.items():
            boxes = level.boxes.flatten(1, 2)  # padding needs no exclusion here: sites leave it out
            match = match_overlapping(
                boxes, boxes.new_ones(boxes.shape[:2]).bool(), batch.boxes, batch.labels, batch.crowd,
                positive_iou=self.positive_iou,
            )  # fmt: skip
            found[number] = match.unflatten(1, level.boxes.shape[1:3])
        return found
