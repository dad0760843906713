"""How each detector's box outputs become boxes: pure functions, elementwise over anchors."""

from __future__ import annotations

import torch
from torch import Tensor

from mimicdet.ops.boxes import decode_deltas

RAW = (1.0, 1.0, 1.0, 1.0)
"""Deltas as torchvision's RetinaNet predicts them."""
ATSS_STD = (0.1, 0.1, 0.2, 0.2)


def from_deltas(box_outputs: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
    """Deltas (..., 4) of the anchors (RetinaNet)."""
    return decode_deltas(box_outputs, anchors, std=RAW)


def from_scaled_deltas(box_outputs: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
    """Deltas (..., 4) of the anchors in standard deviations (ATSS)."""
    return decode_deltas(box_outputs, anchors, std=ATSS_STD)


def from_distances(box_outputs: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
    """Distances (..., 4) left, top, right, bottom of the anchor's centre, in its widths and heights (FCOS)."""
    size = anchors[..., 2:] - anchors[..., :2]
    center = (anchors[..., :2] + anchors[..., 2:]) / 2
    return torch.cat([center - box_outputs[..., :2] * size, center + box_outputs[..., 2:] * size], dim=-1)


def from_distributions(box_outputs: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
    """Four distributions (..., 4 (n + 1)) over distances of 0 to n strides: boxes at their means (GFL, equation 5)."""
    logits = box_outputs.unflatten(-1, (4, -1))
    values = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    # A sum and no matrix product, which autocast would round to whole pixels
    distances = (logits.softmax(-1) * values).sum(-1) * stride[..., None]
    center = (anchors[..., :2] + anchors[..., 2:]) / 2
    return torch.cat([center - distances[..., :2], center + distances[..., 2:]], dim=-1)
