"""Reads feature maps of several pyramid levels at once at fractional points, bilinearly.

Each value is a weighted sum of cells. ``embedding_bag`` does the gather and the sum in one fused kernel on CPU and GPU,
forward and backward, without building the neighbours of every point in memory. The maps are one table of cells,
channels last. The S-head's deformable convolution reads k*k taps a position; RoIAlign (Mask R-CNN) sums sixteen cells a
bin. ``torchvision.ops.roi_align`` works on one map with channels first and, on a CPU, with one thread backward.
"""

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
    index, weights = index.reshape(p * t, 4), weights.reshape(p * t, 4)
    values = F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")  # (P T, C)
    return values.reshape(p, t, table.shape[1])


def pool_boxes(
    table: Tensor, boxes: Tensor, *, start: Tensor, height: Tensor, width: Tensor, size: int, samples: int
) -> Tensor:
    """Pools each box: the mean of bilinear values in each of size x size bins.

    Equal to ``roi_align(..., aligned=True)`` on maps with one more row and column of zeros on the right and below.

    Args:
        table: (R, C) the cells of all maps, row by row, one map after the other.
        boxes: (N, 4) x1 y1 x2 y2 in cells of the map that each is pooled from, finite.
        start: (N,) int64, row of ``table`` where that map begins.
        height, width: (N,) int64, the map's size.
        size, samples: bins along each side of a box, points along each side of a bin.

    Returns:
        (N, C, size, size), channels last in memory.
    """
    n = len(boxes)
    x1, y1, x2, y2 = (boxes - 0.5).unbind(-1)  # (N,) each; the centre of the first cell is 0
    rows, row_weights = _along(y1, y2, height, size, samples)
    columns, column_weights = _along(x1, x2, width, size, samples)
    index = start[:, None, None] + rows * width[:, None, None]  # (N, size, 2 samples)
    index = index[:, :, None, :, None] + columns[:, None, :, None, :]  # (N, size, size, 2 samples, 2 samples)
    weights = row_weights[:, :, None, :, None] * column_weights[:, None, :, None, :]  # likewise
    cells = (2 * samples) ** 2
    index, weights = index.reshape(-1, cells), weights.to(table.dtype).reshape(-1, cells)
    pooled = F.embedding_bag(index, table, per_sample_weights=weights, mode="sum")  # (N size size, C)
    return pooled.reshape(n, size, size, table.shape[1]).permute(0, 3, 1, 2)


def _along(low: Tensor, high: Tensor, length: Tensor, size: int, samples: int) -> tuple[Tensor, Tensor]:
    """Returns, for one axis, the two neighbours of every sample and their weights: (N, size, 2 * samples) each."""
    step = torch.arange(size * samples, device=low.device, dtype=low.dtype)
    point = low[:, None] + (step + 0.5) * ((high - low) / (size * samples))[:, None]  # (N, size * samples)
    length = length[:, None]  # (N, 1)
    seen = point >= -1
    # Before the first cell its value is repeated, as RoIAlign does; beyond the last one lie zeros
    point = point.clamp(min=0).minimum(length.to(point.dtype))
    first = point.floor()
    fraction = point - first
    first = first.long()
    neighbours = torch.stack([first, first + 1], dim=-1)  # (N, size * samples, 2)
    weights = torch.stack([1 - fraction, fraction], dim=-1) / samples  # (N, size * samples, 2)
    weights = weights * (seen[..., None] & (neighbours < length[..., None]))
    shape = (len(low), size, 2 * samples)
    return neighbours.minimum(length[..., None] - 1).reshape(shape), weights.reshape(shape)
