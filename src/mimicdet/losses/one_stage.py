"""Losses of RetinaNet, FCOS, ATSS and GFL: one value an anchor, in float32; the task sums and divides.

Torchvision's where it has them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import generalized_box_iou_loss, sigmoid_focal_loss


def focal_losses(logits: Tensor, targets: Tensor, *, alpha: float, gamma: float) -> Tensor:
    """Focal loss summed over the classes: logits (..., K), targets (..., K) of 0 and 1 -> (...)."""
    losses: Tensor = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)
    return losses.sum(-1)


def quality_focal_losses(logits: Tensor, targets: Tensor, *, gamma: float) -> Tensor:
    """|target - score|^gamma times the binary cross-entropy, summed over the classes (GFL, equation 3).

    Args:
        logits: (..., K).
        targets: (..., K) in 0..1: the IoU of the predicted box at an object's class, 0 elsewhere.
    """
    distance = (targets - logits.sigmoid()).abs()
    return (distance**gamma * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")).sum(-1)


def overlap_losses(boxes: Tensor, targets: Tensor) -> Tensor:
    """1 - generalised IoU of boxes (..., 4) and (..., 4) -> (...)."""
    losses: Tensor = generalized_box_iou_loss(boxes, targets)
    return losses


def distribution_losses(logits: Tensor, distances: Tensor) -> Tensor:
    """Cross-entropy towards the two whole numbers next to each distance, mean over the four sides (GFL, equation 6).

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
    """How central points (..., 2) lie in boxes (..., 4), 0..1; 0 outside (FCOS, equation 3)."""
    distances = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1).clamp(min=0)
    x, y = distances[..., [0, 2]], distances[..., [1, 3]]
    tiny = torch.finfo(distances.dtype).tiny
    ratio = (x.amin(-1) / x.amax(-1).clamp(min=tiny)) * (y.amin(-1) / y.amax(-1).clamp(min=tiny))
    return ratio.sqrt()
