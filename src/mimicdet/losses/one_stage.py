"""RetinaNet, FCOS, ATSS and GFL learn by these losses, of one value an anchor in float32, and share the rest here.

The losses are torchvision's where it has them. P positive anchors of a batch.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss

from mimicdet.assign import LEFT_OUT, Match
from mimicdet.models.one_stage import OneStage, OneStageMaps


def focal_losses(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Returns focal loss summed over the classes: logits (..., K), targets (..., K) of 0 and 1 -> (...)."""
    losses: Tensor = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)
    return losses.sum(-1)


def quality_focal_losses(logits: Tensor, targets: Tensor, *, gamma: float) -> Tensor:
    """Returns |target - score|^gamma times the binary cross-entropy, summed over the classes (GFL, equation 3).

    Args:
        logits: (..., K).
        targets: (..., K) in 0..1: the IoU of the predicted box at an object's class, 0 elsewhere.
    """
    distance = (targets - logits.sigmoid()).abs()
    return (distance**gamma * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")).sum(-1)


def overlap_losses(boxes: Tensor, targets: Tensor) -> Tensor:
    """Returns 1 - generalised IoU of boxes (..., 4) and (..., 4): (...)."""
    losses: Tensor = generalized_box_iou_loss(boxes, targets)
    return losses


def distribution_losses(logits: Tensor, distances: Tensor) -> Tensor:
    """Returns cross-entropy towards the whole numbers next to each distance, mean over the sides (GFL, equation 6).

    Args:
        logits: (..., 4 (n + 1)).
        distances: (..., 4) in cells; clipped to 0..n.
    """
    logits = logits.unflatten(-1, (4, -1))
    n = logits.shape[-1] - 1
    distances = distances.clamp(0, n - 0.01)  # as published: the upper neighbour always exists
    lower = distances.floor()
    log_p = logits.log_softmax(-1)
    at_lower, at_upper = (log_p.gather(-1, (lower.long() + i)[..., None]).squeeze(-1) for i in (0, 1))
    return -((lower + 1 - distances) * at_lower + (distances - lower) * at_upper).mean(-1)


def centerness(points: Tensor, boxes: Tensor) -> Tensor:
    """Says how central points (..., 2) lie in boxes (..., 4), 0..1; 0 outside (FCOS, equation 3)."""
    distances = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1).clamp(min=0)
    x, y = distances[..., [0, 2]], distances[..., [1, 3]]
    tiny = torch.finfo(distances.dtype).tiny
    ratio = (x.amin(-1) / x.amax(-1).clamp(min=tiny)) * (y.amin(-1) / y.amax(-1).clamp(min=tiny))
    return ratio.sqrt()


class LossSum(NamedTuple):
    """Holds a loss summed over anchors, and its share of what it is divided by on this process."""

    total: Tensor
    share: Tensor | None  # 0-d float; None: the number of positives


Sums = dict[str, LossSum]  # Loss sums by the names of their weights among the family's settings


class Matched(NamedTuple):
    """Holds what a detector predicts for a batch, its positive anchors, image by image, and what they should be."""

    detector: OneStage
    maps: OneStageMaps
    match: Tensor  # (B, A) as ``mimicdet.assign.match_objects`` gives it
    image: Tensor  # (P,) int64
    anchor: Tensor  # (P,) int64
    boxes: Tensor  # (P, 4) of the matched objects
    labels: Tensor  # (P,) int64

    def focal_sum(self, *, alpha: float, gamma: float) -> Tensor:
        """Returns focal loss of every class at every anchor that is not left out, 0-d."""
        targets = torch.zeros_like(self.maps.head.logits)  # (B, A, K)
        targets[self.image, self.anchor, self.labels] = 1
        return (focal_losses(self.maps.head.logits, targets, alpha=alpha, gamma=gamma) * (self.match != LEFT_OUT)).sum()

    def predicted_boxes(self) -> Tensor:
        """Returns the boxes (P, 4) predicted at the positives."""
        places, outputs = self.maps.places, self.maps.head.box_outputs[self.image, self.anchor]
        return self.detector.decode_boxes(outputs, places.anchors[self.anchor], places.stride[self.anchor])

    def centers(self) -> Tensor:
        """Returns the centres (P, 2) of the positives' anchors."""
        anchors = self.maps.places.anchors[self.anchor]
        return (anchors[:, :2] + anchors[:, 2:]) / 2

    def centerness(self) -> tuple[Tensor, Tensor]:
        """Returns wanted centerness and predicted logits, (P,) each."""
        assert self.maps.head.quality is not None
        return centerness(self.centers(), self.boxes), self.maps.head.quality[self.image, self.anchor]


class Learning(NamedTuple):
    """Says how a one-stage detector learns: which anchors learn which objects, and by which losses."""

    match: Match
    sums: Callable[[Matched], Sums]
    weights: dict[str, float]  # by the names of the sums
