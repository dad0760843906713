"""A teacher's maps in the student's geometry and classes, whatever the two have in common.

B images, K classes of the student, n anchors a cell of the teacher, C its pyramid's width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mimicdet.models.detector import DenseMaps
from mimicdet.teachers.teacher import NEVER, known_classes


class TeacherMaps(NamedTuple):
    """Holds one pyramid level of the student as the teacher sees it; no gradients."""

    feature: Tensor  # (B, C, H, W)
    logits: Tensor  # (B, H W, n, K)
    boxes: Tensor  # (B, H W, n, 4) pixels of the student's input


def match_levels(
    teacher: DenseMaps, student: DenseMaps, classes: Sequence[int], *, scale: tuple[float, float] = (1.0, 1.0)
) -> dict[int, TeacherMaps]:
    """The teacher's maps on each level that both have, by the student's level number.

    Args:
        teacher, student: of the same images.
        classes: for each of the student's classes the teacher's index, or UNKNOWN.
        scale: height and width of the teacher's input over the student's. An object that is twice as large there lies
            one level higher, so the teacher's level l meets the student's l - log2(scale), rounded: the one whose
            cells cover the same pixels. Maps of other sizes are resized, bilinearly (boxes: the nearest cell's).
    """
    index = torch.tensor([max(c, 0) for c in classes], device=teacher.logits.device)
    unknown = ~known_classes(classes, index.device)
    shapes = {n: f.shape[2:] for n, f in zip(student.level_numbers, student.features, strict=True)}
    back = teacher.boxes.new_tensor([1 / scale[1], 1 / scale[0]]).repeat(2)
    found: dict[int, TeacherMaps] = {}
    start = 0
    for own_number, feature in zip(teacher.level_numbers, teacher.features, strict=True):
        number = own_number - level_shift(scale[0] * scale[1])
        h, w = feature.shape[2:]
        rows = slice(start, start := start + h * w * teacher.per_cell)
        if number not in shapes:
            continue
        size = shapes[number]
        logits = teacher.logits[:, rows][..., index].masked_fill(unknown, NEVER)
        maps = [_as_map(values, h, w) for values in (logits, teacher.boxes[:, rows] * back)]
        if (h, w) != tuple(size):
            feature = F.interpolate(feature.float(), size, mode="bilinear", align_corners=False)
            logits = F.interpolate(maps[0], size, mode="bilinear", align_corners=False)
            maps = [logits, F.interpolate(maps[1], size, mode="nearest-exact")]
        resized = [m.flatten(2).transpose(1, 2).unflatten(2, (teacher.per_cell, -1)) for m in maps]
        found[number] = TeacherMaps(feature, resized[0], resized[1])
    return found


def level_shift(area: float) -> int:
    """By how many levels an object rises whose image grows to ``area`` times its pixels."""
    return round(math.log2(area) / 2)


def split_levels(maps: DenseMaps) -> dict[int, TeacherMaps]:
    """A detector's own maps, level by level."""
    logits, boxes = by_level(maps.logits, maps), by_level(maps.boxes, maps)
    features = zip(maps.level_numbers, maps.features, strict=True)
    return {number: TeacherMaps(feature, logits[number], boxes[number]) for number, feature in features}


def by_level(values: Tensor, maps: DenseMaps) -> dict[int, Tensor]:
    """(B, A, ...) at a detector's positions -> (B, cells, n, ...) by level number."""
    found: dict[int, Tensor] = {}
    start = 0
    for number, feature in zip(maps.level_numbers, maps.features, strict=True):
        count = feature.shape[2] * feature.shape[3] * maps.per_cell
        found[number] = values[:, start : start + count].unflatten(1, (-1, maps.per_cell))
        start += count
    return found


def _as_map(values: Tensor, h: int, w: int) -> Tensor:
    """(B, H W n, D) -> (B, n D, H, W), float32."""
    return values.float().reshape(len(values), h, w, -1).permute(0, 3, 1, 2)
