"""What a teacher's own rule would assign, on the canvas that the student sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from mimicdet.data.batch import Batch

LevelAssignment = Callable[[Batch, Sequence[tuple[int, int]], tuple[int, int]], Tensor]
"""Batch, shapes of the levels, canvas -> (B, A), index of the object of each position, below 0 for none."""


class TeacherAssignment:
    """A teacher's rule on levels of the student's canvas.

    Args:
        rule: assigns objects to the positions of all of the teacher's levels.
        level_numbers: of the teacher.
        per_cell: anchors of a cell, the teacher's.
    """

    def __init__(self, *, rule: LevelAssignment, level_numbers: Sequence[int], per_cell: int) -> None:
        self.rule = rule
        self.level_numbers = tuple(level_numbers)
        self.per_cell = per_cell

    def __call__(self, batch: Batch) -> dict[int, Tensor]:
        """(B, cells, n) by level number: index of the object, below 0 for none."""
        height, width = batch.images.shape[2:]
        shapes = [(-(-height // 2**number), -(-width // 2**number)) for number in self.level_numbers]
        match = self.rule(batch, shapes, (height, width))
        found: dict[int, Tensor] = {}
        start = 0
        for number, (h, w) in zip(self.level_numbers, shapes, strict=True):
            count = h * w * self.per_cell
            found[number] = match[:, start : start + count].unflatten(1, (h * w, self.per_cell))
            start += count
        return found
