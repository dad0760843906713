"""Boxes as tensors: deltas, overlaps, clipping.

Boxes are x1 y1 x2 y2 in pixels. M, N: numbers of boxes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)
"""A box grows or shrinks by at most this factor's exponent in one step; keeps exp() finite (Faster R-CNN)."""


def encode_deltas(targets: Tensor, boxes: Tensor, *, std: tuple[float, float, float, float]) -> Tensor:
    """Deltas (dx, dy, dw, dh) that move ``boxes`` onto ``targets``, divided by ``std`` (Faster R-CNN).

    Args:
        targets, boxes: (..., 4), broadcastable; ``boxes`` with positive width and height.
        std: scale of each delta; (1, 1, 1, 1) leaves them raw.

    Returns:
        (..., 4). Targets without area give large finite values, never NaN: mask them out.
    """
    tiny = torch.finfo(boxes.dtype).tiny
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=tiny)
    target_size = (targets[..., 2:] - targets[..., :2]).clamp(min=tiny)
    shift = ((targets[..., :2] + targets[..., 2:]) - (boxes[..., :2] + boxes[..., 2:])) / (2 * size)
    deltas = torch.cat([shift, torch.log(target_size / size)], dim=-1)
    return deltas / deltas.new_tensor(std)


def decode_deltas(deltas: Tensor, boxes: Tensor, *, std: tuple[float, float, float, float]) -> Tensor:
    """Moves ``boxes`` (..., 4) by ``deltas`` (..., 4); the inverse of :func:`encode_deltas`.

    dw and dh are clipped at log(1000/16) from above.
    """
    deltas = deltas * deltas.new_tensor(std)
    size = boxes[..., 2:] - boxes[..., :2]
    center = boxes[..., :2] + 0.5 * size + deltas[..., :2] * size
    half = 0.5 * size * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE))
    return torch.cat([center - half, center + half], dim=-1)


def clip_to_sizes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clips boxes (B, N, 4) to each image's extent; ``sizes`` (B, 2) is height, width."""
    limits = sizes.flip(-1).repeat(1, 2)[:, None].to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limits)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes (..., N, 4) and (..., M, 4): (..., N, M), 0 where the union has no area."""
    intersection = _intersection(first, second)
    union = _area(first)[..., :, None] + _area(second)[..., None, :] - intersection
    return torch.where(union > 0, intersection / union, 0.0)


def iou_of_pairs(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of each box (..., 4) with its counterpart (..., 4): (...), 0 where there is no area."""
    return iou(first[..., None, :], second[..., None, :])[..., 0, 0]


def intersection_over_first(first: Tensor, second: Tensor) -> Tensor:
    """Share of each box of ``first`` (..., N, 4) that lies inside each of ``second`` (..., M, 4): (..., N, M).

    Boxes without area have share 0.
    """
    intersection = _intersection(first, second)
    return torch.where(intersection > 0, intersection / _area(first)[..., None], 0.0)


def _intersection(first: Tensor, second: Tensor) -> Tensor:
    top_left = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])
    bottom_right = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])
    return (bottom_right - top_left).clamp(min=0).prod(-1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
