"""Which anchors and proposals learn what: assignment and sampling as pure functions, no gradients.

B images, A anchor positions, M objects of an image (padded), R proposals of an image (padded), K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from mimicdet.models.detector import Places
from mimicdet.models.refinement import ANCHOR_SIDE_IN_CELLS
from mimicdet.ops.boxes import intersection_over_first, iou

CROWD_COVER = 0.5
"""Proposals with at least this share of their area inside a crowd region are ignored."""
IGNORED = -1
"""Class target of a proposal that takes part in no loss."""
NO_OBJECT = -1
"""Match of an anchor or proposal with no object."""


class Proposals(NamedTuple):
    """The proposals of a batch, best first; rows past an image's own are padding."""

    positions: Tensor  # (B, R) int64, the anchor position each proposal comes from
    boxes: Tensor  # (B, R, 4) adjusted boxes
    valid: Tensor  # (B, R) bool, False on padding


class ProposalTargets(NamedTuple):
    """What each proposal should be."""

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
    """Objects for the refinement module's anchors (section 3.2).

    An object of scale sqrt(w*h) belongs to the level with S_l <= scale < 2 S_l (smaller ones to the finest, larger ones
    to the coarsest). An anchor of that level is positive when its centre lies in the object's rectangle shrunk to
    ``center_fraction``, edges included; of several objects the smallest wins.

    Args:
        places: positions of the batch's canvas.
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
    cost = torch.where(candidate, area[..., None], torch.inf)
    smallest = cost.min(dim=1)
    return torch.where(smallest.values.isfinite(), smallest.indices, NO_OBJECT)


def make_proposals(
    adjusted_boxes: Tensor, objectness: Tensor, valid: Tensor, *, nms_iou: float, count: int
) -> Proposals:
    """Class-agnostic NMS over all levels of each image, then the best ``count`` (section 4.1).

    Args:
        adjusted_boxes, objectness, valid: (B, A, 4), (B, A), (B, A) bool.
    """
    kept = []
    for boxes_i, objectness_i, valid_i in zip(adjusted_boxes, objectness, valid, strict=True):
        inside = valid_i.nonzero().squeeze(1)
        kept.append(inside[_first_survivors(boxes_i[inside], objectness_i[inside], nms_iou, count)])
    positions = torch.nn.utils.rnn.pad_sequence(kept, batch_first=True)
    lengths = torch.tensor([len(k) for k in kept], device=positions.device)
    return Proposals(
        positions=positions,
        boxes=adjusted_boxes.gather(1, positions[..., None].expand(-1, -1, 4)),
        valid=torch.arange(positions.shape[1], device=positions.device) < lengths[:, None],
    )


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
    """Positive from ``positive_iou`` on, else background; no low-quality matches (section 3.3).

    Args:
        boxes, labels, crowd: (B, M, 4), (B, M) with -1 on padding, (B, M). Crowd regions are never targets; proposals
            that lie at least half inside one are ignored unless they match an object.
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
    """The object that each of (B, N, 4) boxes overlaps best, if by ``positive_iou`` or more: (B, N), else NO_OBJECT.

    Args:
        valid: (B, N) bool, False on padding.
        boxes, labels, crowd: as for :func:`match_proposals`.
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
    """(B, count, columns) uniform numbers; row i depends on ``seeds[i]`` alone, whatever the batch or the device."""
    keys = [torch.rand(count, columns, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.stack(keys).to(device, non_blocking=True)


def sample_balanced(classes: Tensor, keys: Tensor, *, num_classes: int, count: int, positive_fraction: float) -> Tensor:
    """A random choice of ``count`` proposals of an image, positives up to a fraction, the rest negatives.

    Args:
        classes: (B, R) class targets; ``num_classes`` is background, IGNORED takes no part.
        keys: (B, R) random numbers that decide.

    Returns:
        (B, R) bool.
    """
    positive = (classes >= 0) & (classes < num_classes)
    chosen = sample_some(positive, keys, int(count * positive_fraction))
    negatives = count - chosen.sum(1, keepdim=True)
    return chosen | sample_some(classes == num_classes, keys, negatives)


def sample_some(eligible: Tensor, keys: Tensor, count: int | Tensor) -> Tensor:
    """(B, R) bool: the ``count`` (a number, or (B, 1)) eligible entries of each row with the smallest keys.

    Of equal keys the first wins, so that the choice does not depend on how much padding a row has.
    """
    order = keys.masked_fill(~eligible, torch.inf).argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return eligible & (rank < count)
