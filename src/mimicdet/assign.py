"""Assignment and sampling say which anchors and proposals learn what: pure functions, no gradients.

First MimicDet's anchors and proposals, then the anchors of RetinaNet, FCOS, ATSS and GFL.
B images, A anchor positions, M objects of an image (padded), R proposals of an image (padded), K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from mimicdet.models.anchors import ANCHOR_SIDE_IN_CELLS
from mimicdet.models.detector import Places, at_rows
from mimicdet.ops.boxes import intersection_over_first, iou

CROWD_COVER = 0.5  # Proposals with at least this share of their area inside a crowd region are ignored
IGNORED = -1  # Class target of a proposal that takes part in no loss
NO_OBJECT = -1  # Match of an anchor or proposal with no object
LEFT_OUT = -2
"""Match of an anchor that takes part in no loss: padding, crowd regions, RetinaNet's between the thresholds."""

Match = Callable[[Places, Tensor, Tensor], Tensor]
"""Places, valid (A,), objects (M', 4) of one image, M' > 0 -> (A,) index, NO_OBJECT or LEFT_OUT."""


class Proposals(NamedTuple):
    """Holds the proposals of a batch, best first; rows past an image's own are padding."""

    positions: Tensor  # (B, R) int64, the anchor position each proposal comes from
    boxes: Tensor  # (B, R, 4) adjusted boxes
    valid: Tensor  # (B, R) bool, False on padding


class ProposalTargets(NamedTuple):
    """Says what each proposal should be."""

    match: Tensor  # (B, R) int64, index of the matched object, or NO_OBJECT
    classes: Tensor  # (B, R) int64, 0..K-1, K for background, IGNORED for crowd and padding
    best_iou: Tensor  # (B, M) the best IoU any proposal has with each object; 0 on padding


def match_anchors(
    places: Places,
    valid: Tensor,
    boxes: Tensor,
    labels: Tensor,
    crowd: Tensor,
    *,
    center_fraction: float,
    ensure_match: bool,
) -> Tensor:
    """Finds objects for the refinement module's anchors (section 3.2).

    An object of scale sqrt(w*h) belongs to the level with S_l <= scale < 2 S_l (smaller ones to the finest, larger ones
    to the coarsest). An anchor of that level is positive when its centre lies in the object's rectangle shrunk to
    ``center_fraction``, edges included; of several objects the smallest wins.

    Args:
        valid: (B, A) bool, False on padding.
        boxes, labels, crowd: (B, M, 4), (B, M) with -1 on padding, (B, M).
        center_fraction: 0..1.
        ensure_match: an object that holds no anchor centre in that rectangle gets the nearest one of its level, if that
            one lies inside the object (ours).

    Returns:
        (B, A) int64: index of the object, or NO_OBJECT.
    """
    m = labels.shape[1]
    if m == 0:
        return torch.full_like(valid, NO_OBJECT, dtype=torch.int64)
    size = boxes[..., 2:] - boxes[..., :2]
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    area = size.prod(-1)
    target = (labels >= 0) & ~crowd
    basic_scale = places.stride[places.first] * ANCHOR_SIDE_IN_CELLS
    level = (area.sqrt()[..., None] >= basic_scale[1:]).sum(-1)  # (B, M)
    anchor_center = (places.anchors[:, :2] + places.anchors[:, 2:]) / 2
    apart = (anchor_center - center[:, :, None]).abs()  # (B, M, A, 2)
    reach = size[:, :, None] * (center_fraction / 2)
    candidate = (apart <= reach).all(-1) & (places.level == level[..., None]) & target[..., None] & valid[:, None]
    if ensure_match:
        start = places.first[level]
        stride = places.stride[start]
        x = (center[..., 0] / stride).long().clamp(min=0).minimum(places.columns[level] - 1)
        y = (center[..., 1] / stride).long().clamp(min=0).minimum(places.rows[level] - 1)
        nearest = start + y * places.columns[level] + x
        nearest_center = anchor_center[nearest]
        inside = ((nearest_center >= boxes[..., :2]) & (nearest_center <= boxes[..., 2:])).all(-1)
        lonely = ~candidate.any(-1) & target & inside & valid.gather(1, nearest)
        candidate.scatter_(2, nearest[..., None], candidate.gather(2, nearest[..., None]) | lonely[..., None])
    return _smallest(candidate, area)


def _smallest(candidate: Tensor, area: Tensor) -> Tensor:
    """(..., A) the candidate object of the least area, or NO_OBJECT, of (..., M, A) bool and (..., M)."""
    best, match = torch.where(candidate, area[..., None], torch.inf).min(-2)
    return torch.where(best.isfinite(), match, NO_OBJECT)


def make_proposals(
    adjusted_boxes: Tensor, objectness: Tensor, valid: Tensor, *, nms_iou: float, count: int
) -> Proposals:
    """Suppresses boxes (B, A, 4) over all levels, whatever their class, and keeps the best ``count`` (section 4.1)."""
    kept = []
    for boxes_i, objectness_i, valid_i in zip(adjusted_boxes, objectness, valid, strict=True):
        inside = valid_i.nonzero().squeeze(1)
        kept.append(inside[_first_survivors(boxes_i[inside], objectness_i[inside], nms_iou, count)])
    positions = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)
    lengths = torch.tensor([len(k) for k in kept], device=positions.device)
    real = torch.arange(positions.shape[1], device=positions.device) < lengths[:, None]
    return Proposals(positions, at_rows(adjusted_boxes, positions), real)


def _first_survivors(boxes: Tensor, scores: Tensor, nms_iou: float, count: int) -> Tensor:
    """Indices of the best ``count`` boxes that NMS keeps, best first.

    Whether a box survives depends on better ones alone, so NMS on the best boxes gives a prefix of NMS on all of them.
    Its cost grows with the square of their number; on most images twice ``count`` already hold enough survivors.
    """
    best = scores.argsort(descending=True, stable=True)
    if nms_iou >= 1:  # suppresses nothing
        return best[:count]
    for candidates in (best[: 2 * count], best):
        kept = candidates[nms(boxes[candidates], scores[candidates], nms_iou)[:count]]
        if len(kept) == count or len(candidates) == len(best):
            break
    return kept


def match_proposals(
    proposals: Proposals, boxes: Tensor, labels: Tensor, crowd: Tensor, *, num_classes: int, positive_iou: float
) -> ProposalTargets:
    """Matches proposals: positive from ``positive_iou`` on, else background, no low-quality matches (section 3.3).

    ``boxes``, ``labels``, ``crowd`` are (B, M, 4), (B, M) with -1 on padding, (B, M). Crowd regions are never targets;
    proposals that lie at least half inside one are ignored unless they match an object.
    """
    b, r = proposals.positions.shape
    m = labels.shape[1]
    background = torch.full((b, r), num_classes, dtype=torch.int64, device=labels.device)
    if m == 0:
        none = torch.full_like(background, NO_OBJECT)
        return ProposalTargets(none, background.masked_fill(~proposals.valid, IGNORED), proposals.boxes.new_zeros(b, 0))
    overlap = _overlaps(proposals.boxes, proposals.valid, boxes, labels, crowd)
    best, match = overlap.max(-1)
    positive = best >= positive_iou
    in_crowd = intersection_over_first(proposals.boxes, boxes).masked_fill(~crowd[:, None], 0).amax(-1) >= CROWD_COVER
    ignored = (in_crowd & ~positive) | ~proposals.valid
    classes = torch.where(positive, labels.gather(1, match), background).masked_fill(ignored, IGNORED)
    return ProposalTargets(torch.where(positive, match, NO_OBJECT), classes, overlap.amax(1))


def match_overlapping(
    found: Tensor, valid: Tensor, boxes: Tensor, labels: Tensor, crowd: Tensor, *, positive_iou: float
) -> Tensor:
    """Returns the object (B, N) that each box (B, N, 4) overlaps best, NO_OBJECT below ``positive_iou``.

    ``valid`` (B, N) is False on padding; ``boxes``, ``labels``, ``crowd`` are as for :func:`match_proposals`.
    """
    if labels.shape[1] == 0:
        return torch.full_like(valid, NO_OBJECT, dtype=torch.int64)
    best, match = _overlaps(found, valid, boxes, labels, crowd).max(-1)
    return torch.where(best >= positive_iou, match, NO_OBJECT)


def _overlaps(found: Tensor, valid: Tensor, boxes: Tensor, labels: Tensor, crowd: Tensor) -> Tensor:
    """(B, N, M) IoU of boxes with objects; 0 for padding and with crowd regions."""
    target = (labels >= 0) & ~crowd
    return iou(found, boxes).masked_fill(~target[:, None] | ~valid[..., None], 0)


def random_keys(seeds: Tensor, count: int, columns: int, device: torch.device) -> Tensor:
    """Draws (B, count, columns) uniform numbers; row i depends on ``seeds[i]`` alone, whatever batch or device."""
    keys = [torch.rand(count, columns, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.stack(keys).to(device, non_blocking=True)


def sample_balanced(classes: Tensor, keys: Tensor, *, num_classes: int, count: int, positive_fraction: float) -> Tensor:
    """Chooses ``count`` proposals of an image at random, (B, R) bool, positives up to a fraction, then negatives.

    Args:
        classes: (B, R) class targets; ``num_classes`` is background, IGNORED takes no part.
        keys: (B, R) random numbers that decide.
    """
    positive = (classes >= 0) & (classes < num_classes)
    chosen = sample_some(positive, keys, int(count * positive_fraction))
    negatives = count - chosen.sum(1, keepdim=True)
    return chosen | sample_some(classes == num_classes, keys, negatives)


def sample_some(eligible: Tensor, keys: Tensor, count: int | Tensor) -> Tensor:
    """Returns (B, R) bool: each row's ``count`` (a number, or (B, 1)) eligible entries with the smallest keys.

    Of equal keys the first wins, so that the choice does not depend on how much padding a row has.
    """
    order = keys.masked_fill(~eligible, torch.inf).argsort(dim=1, stable=True)
    ranks = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, ranks)
    return eligible & (rank < count)


@torch.no_grad()
def match_objects(match: Match, places: Places, valid: Tensor, boxes: Tensor, labels: Tensor, crowd: Tensor) -> Tensor:
    """Finds objects for the anchors of a batch, by one detector's rule.

    One image at a time: anchors times objects of a whole batch of crowded images would not fit into memory.

    Args:
        match: the rule, such as :func:`by_statistics` with its settings.
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
    """Matches RetinaNet's anchors: from ``positive_iou`` on, to none below ``negative_iou``, left out in between.

    Each object also keeps the anchors that overlap it most, whatever their IoU; such an anchor learns the object
    that it itself overlaps most.
    """
    overlap = iou(boxes, places.anchors).masked_fill(~valid, 0)  # (M, A)
    best, index = overlap.max(0)
    match = torch.where(best >= positive_iou, index, LEFT_OUT)
    match = torch.where(best < negative_iou, NO_OBJECT, match)
    most = overlap.amax(1, keepdim=True)
    return torch.where(((overlap == most) & (most > 0)).any(0), index, match)


def by_center(places: Places, valid: Tensor, boxes: Tensor, *, radius: float) -> Tensor:
    """Matches FCOS's points inside an object and within ``radius`` cells of its centre; the smallest object wins.

    They lie on the level whose range the distance to the farthest side falls into: 4 to 8 cells, from 0 on the finest
    level, to infinity on the coarsest.
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
    return _smallest(candidate, (boxes[:, 2:] - boxes[:, :2]).prod(-1))


def by_statistics(places: Places, valid: Tensor, boxes: Tensor, *, candidates: int) -> Tensor:
    """Matches ATSS's anchors by statistics of the ``candidates`` of each level that are nearest to an object's centre.

    Those match whose IoU is at least the mean plus the standard deviation of all the object's candidates', and whose
    centre lies inside it. The best IoU wins.
    """
    overlap = iou(boxes, places.anchors)  # (M, A)
    point = (places.anchors[:, :2] + places.anchors[:, 2:]) / 2
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    apart = (point - center[:, None]).square().sum(-1).masked_fill(~valid, torch.inf)
    chosen, start = [], 0
    for count in torch.bincount(places.level).tolist():
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
