"""Student and teacher side by side: the places at which the two can be compared.

B images, S sites over all levels that both have, n boxes at a site, K classes, M objects (padded), P positives.
A site is an anchor where both have the same anchors, else a cell, for which the best of its anchors speaks.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mimicdet.models.dense import DenseMaps
from mimicdet.ops.boxes import iou_of_pairs
from mimicdet.teachers.match_maps import TeacherMaps, by_level, split_levels


class Side(NamedTuple):
    """What one of the two says at the sites."""

    logits: Tensor  # (B, S, n, K)
    boxes: Tensor  # (B, S, n, 4)


class Sites(NamedTuple):
    """Both sides, and what is assigned to the sites."""

    student: Side
    teacher: Side
    valid: Tensor  # (B, S) bool, False on padding
    match: Tensor  # (B, S) int64, index of the object, below 0 for none


class Positives(NamedTuple):
    """Sites that belong to objects, and what both sides say of those objects there."""

    group: Tensor  # (P,) int64, image * M + object
    teacher_logits: Tensor  # (P,) of the object's class
    student_logits: Tensor
    teacher_iou: Tensor  # (P,) of the box with the object's
    student_iou: Tensor


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
