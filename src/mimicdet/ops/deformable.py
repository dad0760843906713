"""Bilinear sampling at fractional points of several pyramid levels at once.

The deformable convolution of the S-head reads k*k taps a position. Read at chosen positions only, that is
a gather; ``embedding_bag`` does the gather and the bilinear sum in one fused kernel on CPU and GPU, forward
and backward, without building the four neighbours of every tap in memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def kernel_taps(kernel_size: int, *, device: torch.device | None = None) -> Tensor:
    """Returns the regular taps of a k x k kernel around its centre: (k*k, 2) as y, x in cells, row by row."""
    axis = torch.arange(kernel_size, device=device, dtype=torch.float32) - (kernel_size - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([y.flatten(), x.flatten()], dim=-1)


def sample_bilinear(table: Tensor, points: Tensor, *, start: Tensor, height: Tensor, width: Tensor) -> Tensor:
    """Reads feature maps at fractional points by bilinear interpolation; outside a map is zero.

    Args:
        table: (N, C) the cells of all maps, row by row, one map after the other.
        points: (P, T, 2) y, x in cells of the map that each row P reads; whole numbers are cell centres.
        start: (P,) int64, row of ``table`` where that map begins.
        height, width: (P,) int64, the map's size.

    Returns:
        (P, T, C), equal to what ``torchvision.ops.deform_conv2d`` reads at those points.
    """
    p, t, _ = points.shape
    floor = points.floor()  # (P, T, 2)
    fraction = (points - floor).to(table.dtype)  # (P, T, 2)
    corner = floor.long()  # (P, T, 2)
    # The four neighbours, (P, T, 4) from here on: top left, top right, bottom left, bottom right
    ys = torch.stack([corner[..., 0], corner[..., 0], corner[..., 0] + 1, corner[..., 0] + 1], dim=-1)
    xs = torch.stack([corner[..., 1], corner[..., 1] + 1, corner[..., 1], corner[..., 1] + 1], dim=-1)
    fy, fx = fraction[..., 0], fraction[..., 1]
    weights = torch.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], dim=-1)
    rows, columns = height[:, None, None], width[:, None, None]
    inside = (ys >= 0) & (ys < rows) & (xs >= 0) & (xs < columns)
    weights = weights * inside
    index = start[:, None, None] + ys.clamp(min=0).minimum(rows - 1) * columns
    index = index + xs.clamp(min=0).minimum(columns - 1)
    if torch.compiler.is_exporting():  # embedding_bag is no operator of ONNX
        # Gather and MatMul there; as indexing and einsum the same took half as long again
        taps = table.index_select(0, index.flatten()).unflatten(0, (p * t, 4))  # (P T, 4, C)
        return (weights.reshape(p * t, 1, 4) @ taps).reshape(p, t, table.shape[1])
    values = F.embedding_bag(
        index.reshape(p * t, 4), table, per_sample_weights=weights.reshape(p * t, 4), mode="sum"
    )  # (P T, C)
    return values.reshape(p, t, table.shape[1])
