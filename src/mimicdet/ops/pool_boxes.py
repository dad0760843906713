"""RoIAlign (Mask R-CNN) of boxes on several feature maps at once, as one fused gather.

``torchvision.ops.roi_align`` works on one map with channels first and, on a CPU, with one thread backward; the
pyramid's maps are channels last. Every bin is a weighted sum of sixteen cells, which ``embedding_bag`` computes forward
and backward.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


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
        size: bins along each side.
        samples: points of a bin along each side.

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
    pooled = F.embedding_bag(
        index.reshape(-1, cells), table, per_sample_weights=weights.to(table.dtype).reshape(-1, cells), mode="sum"
    )
    # From (N size size, C)
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
