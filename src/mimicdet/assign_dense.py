"""Which anchors of RetinaNet, FCOS, ATSS and GFL learn which object: pure functions, no gradients.

B images, A anchors over all levels, M objects of an image (padded). One image at a time inside: anchors times objects
of a whole batch of crowded images would not fit into memory.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mimicdet.assign import CROWD_COVER, NO_OBJECT
from mimicdet.models.detector import Places
from mimicdet.ops.boxes import intersection_over_first, iou

LEFT_OUT = -2
"""Match of an anchor that takes part in no loss: padding, crowd regions, RetinaNet's between the thresholds."""

Match = Callable[[Places, Tensor, Tensor], Tensor]
"""Places, valid (A,), objects (M', 4) of one image, M' > 0 -> (A,) index, NO_OBJECT or LEFT_OUT."""


@torch.no_grad()
def match_objects(match: Match, places: Places, valid: Tensor, boxes: Tensor, labels: Tensor, crowd: Tensor) -> Tensor:
    """Objects for the anchors of a batch, by one detector's rule.

    Args:
        match: the rule, such as :func:`by_statistics` with its settings.
        places: of the batch's canvas.
        valid: (B, A) bool, False on padding.
        boxes, labels, crowd: (B, M, 4), (B, M) with -1 on padding, (B, M). Crowd regions are never targets; anchors
            that lie at least half inside one and match no object are left out.

    Returns:
        (B, A) int64: index of the object in 0..M-1, NO_OBJECT for background, LEFT_OUT.
    """
    rows = []
    for valid_i, boxes_i, labels_i, crowd_i in zip(valid, boxes, labels, crowd, strict=True):
        target = ((labels_i >= 0) & ~crowd_i).nonzero().squeeze(1)
        if len(target):
            found = match(places, valid_i, boxes_i[target])
            row = torch.where(found >= 0, target[found.clamp(min=0)], found)
        else:
            row = torch.full_like(valid_i, NO_OBJECT, dtype=torch.int64)
        regions = boxes_i[crowd_i & (labels_i >= 0)]
        if len(regions):
            covered = intersection_over_first(places.anchors, regions).amax(-1) >= CROWD_COVER
            row = row.masked_fill(covered & (row == NO_OBJECT), LEFT_OUT)
        rows.append(row.masked_fill(~valid_i, LEFT_OUT))
    return torch.stack(rows)


def by_overlap(places: Places, valid: Tensor, boxes: Tensor, *, positive_iou: float, negative_iou: float) -> Tensor:
    """RetinaNet: positive from ``positive_iou`` on, background below ``negative_iou``, left out in between.

    Each object besides keeps the anchors that overlap it most, whatever their IoU; such an anchor learns the object
    that it itself overlaps most.
    """
    overlap = iou(boxes, places.anchors).masked_fill(~valid, 0)  # (M, A)
    best, index = overlap.max(0)
    match = torch.where(best >= positive_iou, index, LEFT_OUT)
    match = torch.where(best < negative_iou, NO_OBJECT, match)
    most = overlap.amax(1, keepdim=True)
    return torch.where(((overlap == most) & (most > 0)).any(0), index, match)


def by_center(places: Places, valid: Tensor, boxes: Tensor, *, radius: float) -> Tensor:
    """FCOS: points inside an object and within ``radius`` cells of its centre, on the level whose range the distance to
    its farthest side falls into: 4 to 8 cells, from 0 on the finest level, to infinity on the coarsest. The smallest
    object wins.
    """
    side = places.anchors[:, 2] - places.anchors[:, 0]
    point = (places.anchors[:, :2] + places.anchors[:, 2:]) / 2  # (A, 2)
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    near = (point - center[:, None]).abs().amax(-1) < radius * side  # (M, A)
    distances = torch.cat([point - boxes[:, None, :2], boxes[:, None, 2:] - point], dim=-1)
    inside = distances.amin(-1) > 0
    longest = distances.amax(-1)
    lower = torch.where(places.level == 0, 0, 4 * side)
    upper = torch.where(places.level == places.level.max(), torch.inf, 8 * side)
    candidate = near & inside & (longest > lower) & (longest < upper) & valid
    return _smallest(candidate, boxes)


def by_statistics(places: Places, valid: Tensor, boxes: Tensor, *, candidates: int) -> Tensor:
    """ATSS: of the ``candidates`` anchors of each level nearest to an object's centre, those whose IoU with it is at
    least the mean plus the standard deviation of all its candidates' and whose centre lies inside it. The best IoU
    wins.
    """
    overlap = iou(boxes, places.anchors)  # (M, A)
    point = (places.anchors[:, :2] + places.anchors[:, 2:]) / 2
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    apart = (point - center[:, None]).square().sum(-1).masked_fill(~valid, torch.inf)
    counts = torch.bincount(places.level).tolist()
    chosen, start = [], 0
    for count in counts:
        nearest = apart[:, start : start + count].topk(min(candidates, count), dim=1, largest=False).indices
        chosen.append(nearest + start)
        start += count
    index = torch.cat(chosen, dim=1)  # (M, C)
    values, seen = overlap.gather(1, index), valid[index]
    number = seen.sum(1, keepdim=True)
    mean = (values * seen).sum(1, keepdim=True) / number
    variance = ((values - mean).square() * seen).sum(1, keepdim=True) / (number - 1).clamp(min=1)
    inside = torch.cat([point - boxes[:, None, :2], boxes[:, None, 2:] - point], dim=-1).amin(-1) > 0.01
    good = seen & (values >= mean + variance.sqrt()) & inside.gather(1, index)
    candidate = torch.zeros_like(overlap, dtype=torch.bool).scatter_(1, index, good)
    best, match = overlap.masked_fill(~candidate, -1).max(0)
    return torch.where(best >= 0, match, NO_OBJECT)


def _smallest(candidate: Tensor, boxes: Tensor) -> Tensor:
    """(M, A) bool -> (A,) the candidate object of the least area, or NO_OBJECT."""
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    cost = torch.where(candidate, area[:, None], torch.inf)
    best, match = cost.min(0)
    return torch.where(best.isfinite(), match, NO_OBJECT)
