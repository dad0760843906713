"""Anchor positions of all pyramid levels in one row: level by level, row by row.

A positions over all levels. One square anchor a position (section 3.2), side 4 * stride, centred on the cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ANCHOR_SIDE_IN_CELLS = 4
"""S_l = 4 * 2^l: 32 px on P3 .. 512 px on P7 (section 3.2)."""


class Grid(NamedTuple):
    """Where each of the A positions lies."""

    level: Tensor  # (A,) int64, index into the levels, 0 is the finest
    y: Tensor  # (A,) int64, row
    x: Tensor  # (A,) int64, column
    height: Tensor  # (A,) int64, rows of the position's level
    width: Tensor  # (A,) int64, columns of the position's level
    start: Tensor  # (A,) int64, where the position's level begins in A
    stride: Tensor  # (A,) float32, pixels a cell
    anchors: Tensor  # (A, 4) float32, x1 y1 x2 y2 in pixels of the padded input
    first: Tensor  # (L,) int64, where each level begins in A

    def valid(self, sizes: Tensor) -> Tensor:
        """(B, A) bool: positions whose cell overlaps the image; ``sizes`` (B, 2) is height, width."""
        limits = sizes.to(self.stride.dtype)[:, :, None]
        return (self.y * self.stride < limits[:, 0]) & (self.x * self.stride < limits[:, 1])


def make_grid(shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device) -> Grid:
    """The grid of levels with the given (rows, columns) and strides in pixels."""
    parts: list[list[Tensor]] = [[] for _ in range(7)]
    start = 0
    starts = []
    for level, ((h, w), stride) in enumerate(zip(shapes, strides, strict=True)):
        y, x = torch.meshgrid(torch.arange(h, device=device), torch.arange(w, device=device), indexing="ij")
        y, x = y.flatten(), x.flatten()
        columns = (
            torch.full_like(y, level), y, x, torch.full_like(y, h), torch.full_like(y, w),
            torch.full_like(y, start), torch.full_like(y, stride, dtype=torch.float32),
        )  # fmt: skip
        for part, column in zip(parts, columns, strict=True):
            part.append(column)
        starts.append(start)
        start += h * w
    level_, y, x, height, width, start_, stride_ = (torch.cat(part) for part in parts)
    center_x, center_y = (x + 0.5) * stride_, (y + 0.5) * stride_
    half = stride_ * (ANCHOR_SIDE_IN_CELLS / 2)
    anchors = torch.stack([center_x - half, center_y - half, center_x + half, center_y + half], dim=-1)
    first = torch.tensor(starts, device=device)
    return Grid(level_, y, x, height, width, start_, stride_, anchors, first)
