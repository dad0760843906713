"""Student and teacher side by side: the places at which the two can be compared, and what is assigned to them.

B images, S sites over all levels that both have, n boxes at a site, K classes, M objects (padded), P positives.
A site is an anchor where both have the same anchors, else a cell, for which the best of its anchors speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mimicdet.assign import match_overlapping
from mimicdet.data.batch import Batch
from mimicdet.losses.comparison import Positives
from mimicdet.models.detector import DenseMaps, level_shapes
from mimicdet.ops.boxes import iou_of_pairs
from mimicdet.teachers.match_maps import TeacherMaps, by_level, split_levels

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
            everywhere = boxes.new_ones(boxes.shape[:2]).bool()
            objects = (batch.boxes, batch.labels, batch.crowd)
            match = match_overlapping(boxes, everywhere, *objects, positive_iou=self.positive_iou)
            found[number] = match.unflatten(1, level.boxes.shape[1:3])
        return found


class Side(NamedTuple):
    """Holds what one of the two says at the sites."""

    logits: Tensor  # (B, S, n, K)
    boxes: Tensor  # (B, S, n, 4)


class Sites(NamedTuple):
    """Holds both sides, and what is assigned to the sites."""

    student: Side
    teacher: Side
    valid: Tensor  # (B, S) bool, False on padding
    match: Tensor  # (B, S) int64, index of the object, below 0 for none


def common_sites(
    maps: DenseMaps, teacher: dict[int, TeacherMaps], assigned: Tensor | dict[int, Tensor], *, same_anchors: bool
) -> Sites:
    """The sites of all levels that both have.

    Args:
        maps: the student's.
        teacher: on the student's levels, see ``mimicdet.teachers.match_maps.match_levels``.
        assigned: index of the object of each position, below 0 for none: (B, A) by the student's rule, or
            (B, cells, n) by level number by the teacher's.
        same_anchors: anchor i of a cell means the same to both.
    """
    own = split_levels(maps)
    parts: list[tuple[Tensor, ...]] = []
    matches = by_level(assigned, maps) if isinstance(assigned, Tensor) else assigned
    valid = by_level(maps.valid, maps)
    for number in own:
        if number not in teacher:
            continue
        match = matches[number]
        sides = [(side.logits, side.boxes) for side in (own[number], teacher[number])]
        if same_anchors:
            values = [part.flatten(1, 2)[:, :, None] for side in sides for part in side]
            parts.append((*values, valid[number].flatten(1), match.flatten(1)))
        else:  # of several anchors of a cell that are assigned, the object with the highest index stands for all
            parts.append((*(part for side in sides for part in side), valid[number].any(2), match.amax(2)))
    s_logits, s_boxes, t_logits, t_boxes, valid_sites, match = (
        torch.cat(columns, dim=1) for columns in zip(*parts, strict=True)
    )
    return Sites(Side(s_logits, s_boxes), Side(t_logits, t_boxes), valid_sites, match)


def positives_of(sites: Sites, boxes: Tensor, labels: Tensor, known: Tensor) -> Positives:
    """The sites of objects whose class the teacher knows.

    Args:
        boxes, labels: (B, M, 4), (B, M) of the objects.
        known: (K,) bool.
    """
    m = labels.shape[1]
    image, site = ((sites.match >= 0) & sites.valid).nonzero().unbind(1)
    index = sites.match[image, site]
    if m == 0:  # then there are no positives either
        labels, boxes = labels.new_zeros(len(labels), 1), boxes.new_zeros(len(boxes), 1, 4)
    label = labels[image, index]
    kept = known[label]
    image, site, index, label = image[kept], site[kept], index[kept], label[kept]
    wanted = boxes[image, index][:, None]
    found = []
    for side in (sites.teacher, sites.student):
        logits = side.logits[image, site].gather(2, label[:, None, None].expand(-1, side.logits.shape[2], 1))
        overlap = iou_of_pairs(side.boxes[image, site], wanted.expand(-1, side.boxes.shape[2], 4))
        found += [logits.squeeze(2).amax(1), overlap.amax(1)]
    return Positives(image * m + index, found[0], found[2], found[1], found[3])
