"""Boxes as tensors: deltas, overlaps, clipping; x1 y1 x2 y2 in pixels. B images, M and N boxes."""

import math

import torch
from torch import Tensor

MAX_LOG_SCALE = math.log(1000 / 16)
"""The largest dw and dh: a box grows at most 62.5 times in one step, which keeps exp() finite (Faster R-CNN)."""


def encode_deltas(targets: Tensor, boxes: Tensor, *, std: tuple[float, float, float, float]) -> Tensor:
    """Returns deltas (dx, dy, dw, dh) that move ``boxes`` onto ``targets``, divided by ``std`` (Faster R-CNN).

    Args:
        targets, boxes: (..., 4), broadcastable; ``boxes`` with positive width and height.
        std: scale of each delta; (1, 1, 1, 1) leaves them raw.

    Returns:
        (..., 4). Targets without area give large finite values, never NaN: mask them out.
    """
    tiny = torch.finfo(boxes.dtype).tiny
    size = (boxes[..., 2:] - boxes[..., :2]).clamp(min=tiny)  # (..., 2)
    target_size = (targets[..., 2:] - targets[..., :2]).clamp(min=tiny)  # (..., 2)
    shift = ((targets[..., :2] + targets[..., 2:]) - (boxes[..., :2] + boxes[..., 2:])) / (2 * size)
    deltas = torch.cat([shift, torch.log(target_size / size)], dim=-1)  # (..., 4)
    return deltas / deltas.new_tensor(std)


def decode_deltas(deltas: Tensor, boxes: Tensor, *, std: tuple[float, float, float, float]) -> Tensor:
    """Moves ``boxes`` (..., 4) by ``deltas`` (..., 4): :func:`encode_deltas` inverted; dw, dh at most log(1000/16)."""
    deltas = deltas * deltas.new_tensor(std)
    size = boxes[..., 2:] - boxes[..., :2]  # (..., 2)
    center = boxes[..., :2] + 0.5 * size + deltas[..., :2] * size  # (..., 2)
    half = 0.5 * size * torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE))
    return torch.cat([center - half, center + half], dim=-1)


def clip_to_sizes(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Clips boxes (B, N, 4) to each image's extent; ``sizes`` (B, 2) is height, width."""
    limits = sizes.flip(-1).repeat(1, 2)[:, None].to(boxes.dtype)  # (B, 1, 4)
    return torch.minimum(boxes.clamp(min=0), limits)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Returns the IoU of boxes (..., N, 4) and (..., M, 4): (..., N, M), 0 where the union has no area."""
    intersection = _intersection(first, second)  # (..., N, M)
    union = _area(first)[..., :, None] + _area(second)[..., None, :] - intersection  # (..., N, M)
    return torch.where(union > 0, intersection / union, 0.0)


def iou_of_pairs(first: Tensor, second: Tensor) -> Tensor:
    """Returns the IoU of each box (..., 4) with its counterpart (..., 4): (...), 0 where there is no area."""
    return iou(first[..., None, :], second[..., None, :])[..., 0, 0]


def intersection_over_first(first: Tensor, second: Tensor) -> Tensor:
    """Returns each ``first`` box's (..., N, 4) share in each ``second`` (..., M, 4): (..., N, M), 0 without area."""
    intersection = _intersection(first, second)
    return torch.where(intersection > 0, intersection / _area(first)[..., None], 0.0)


def _intersection(first: Tensor, second: Tensor) -> Tensor:
    top_left = torch.maximum(first[..., :, None, :2], second[..., None, :, :2])  # (..., N, M, 2)
    bottom_right = torch.minimum(first[..., :, None, 2:], second[..., None, :, 2:])  # (..., N, M, 2)
    return (bottom_right - top_left).clamp(min=0).prod(-1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
