"""A teacher's maps in the student's geometry: values that can be said beforehand."""

from __future__ import annotations

import torch
from torch import Tensor

from mimicdet.models.detector import DenseMaps
from mimicdet.teachers.dense import NEVER, match_levels, split_levels


def maps(shapes: dict[int, tuple[int, int]], *, per_cell: int = 1, classes: int = 2, channels: int = 1) -> DenseMaps:
    """Everything grows with the cell's column, and by 100 from row to row; boxes are the cells."""

    def plane(h: int, w: int) -> Tensor:
        return torch.arange(w).float()[None] + 100 * torch.arange(h).float()[:, None]

    features, logits, boxes = [], [], []
    for level, (h, w) in shapes.items():
        values = plane(h, w)
        features.append(values.expand(1, channels, h, w))
        each = values.flatten()[:, None, None] + 0.1 * torch.arange(per_cell)[:, None] + 0.01 * torch.arange(classes)
        logits.append(each.flatten(0, 1)[None])
        y, x = (c.flatten() * 2**level for c in torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
        cell = torch.stack([x, y, x + 2**level, y + 2**level], dim=1).float()
        boxes.append(cell.repeat_interleave(per_cell, 0)[None])
    number = sum(h * w for h, w in shapes.values()) * per_cell
    return DenseMaps(
        tuple(features),
        tuple(shapes),
        per_cell,
        torch.cat(logits, 1),
        torch.cat(boxes, 1),
        torch.ones(1, number, dtype=torch.bool),
    )


def test_classes_take_the_students_order_and_unknown_ones_never_score() -> None:
    teacher, student = maps({3: (2, 3)}, classes=2), maps({3: (2, 3)}, classes=3)
    found = match_levels(teacher, student, [1, -1, 0])[3]
    assert found.logits.shape == (1, 6, 1, 3)
    torch.testing.assert_close(found.logits[0, :, 0, 0], teacher.logits[0, :, 1])
    torch.testing.assert_close(found.logits[0, :, 0, 2], teacher.logits[0, :, 0])
    assert (found.logits[0, :, 0, 1] == NEVER).all()


def test_levels_that_both_have_cell_by_cell_and_anchor_by_anchor() -> None:
    teacher = maps({2: (8, 12), 3: (4, 6), 4: (2, 3)}, per_cell=3)
    student = maps({3: (4, 6), 4: (2, 3), 5: (1, 2)})
    found = match_levels(teacher, student, [0, 1])
    assert list(found) == [3, 4]
    torch.testing.assert_close(found[4].logits[0, 4, :, 0], torch.tensor([101.0, 101.1, 101.2]))
    assert found[4].boxes[0, 4, 2].tolist() == [16, 16, 32, 32]
    assert found[3].feature is teacher.features[1]


def test_a_teacher_that_sees_twice_the_size() -> None:
    """An object lies one level higher there, in cells that cover the same pixels; boxes shrink to half."""
    teacher, student = maps({3: (4, 6), 4: (2, 3)}), maps({3: (2, 3), 4: (1, 2)})
    found = match_levels(teacher, student, [0, 1], scale=(2.0, 2.0))
    assert list(found) == [3]
    assert found[3].feature is teacher.features[1]
    torch.testing.assert_close(found[3].boxes[0, :, 0], student.boxes[0, :6])


def test_a_teacher_that_sees_a_little_more() -> None:
    """The levels stay; four of its cells make one of the student's here."""
    teacher, student = maps({3: (4, 6)}), maps({3: (2, 3)})
    found = match_levels(teacher, student, [0, 1], scale=(1.3, 1.3))[3]
    expected = torch.tensor([[50.5, 52.5, 54.5], [250.5, 252.5, 254.5]])
    torch.testing.assert_close(found.feature[0, 0], expected)
    torch.testing.assert_close(found.logits[0, :, 0, 0], expected.flatten())
    # The nearest cell of the teacher to the middle of a student's cell is one of the four
    boxes = 1.3 * found.boxes[0, :, 0]
    torch.testing.assert_close(boxes[:, 2:] - boxes[:, :2], torch.full((6, 2), 8.0))
    columns = (boxes[:, 0] / 8).round().long().reshape(2, 3)
    assert ((columns >= torch.tensor([0, 2, 4])) & (columns <= torch.tensor([1, 3, 5]))).all()


def test_split_levels() -> None:
    both = maps({3: (2, 3), 4: (1, 2)}, per_cell=2)
    found = split_levels(both)
    torch.testing.assert_close(torch.cat([found[l].logits.flatten(1, 2) for l in (3, 4)], 1), both.logits)
    torch.testing.assert_close(torch.cat([found[l].boxes.flatten(1, 2) for l in (3, 4)], 1), both.boxes)
