"""Anchors of the one-stage detectors that have them at every cell of every level: RetinaNet, FCOS, ATSS, GFL.

A anchors over all levels: level by level, row by row, n anchors a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

Convention = Literal["corner", "center"]


class Places(NamedTuple):
    """Where each anchor lies."""

    anchors: Tensor  # (A, 4) float32, x1 y1 x2 y2 in pixels of the padded input
    level: Tensor  # (A,) int64, index into the levels, 0 is the finest
    y: Tensor  # (A,) int64, row of its cell
    x: Tensor  # (A,) int64, column of its cell
    stride: Tensor  # (A,) float32, 2^level in pixels

    def valid(self, sizes: Tensor) -> Tensor:
        """(B, A) bool: anchors whose cell overlaps the image; ``sizes`` (B, 2) is height, width."""
        limits = sizes.to(self.stride.dtype)[:, :, None]
        return (self.y * self.stride < limits[:, 0]) & (self.x * self.stride < limits[:, 1])


class Anchors(nn.Module):
    """Base boxes, repeated at every cell.

    Args:
        base: for each level (n, 4) boxes around the origin, in pixels.
        levels: level numbers; level l has cells of 2^l pixels.
        convention: where a cell's anchors are centred. ``corner``: on its upper left corner, cells being as large as
            the canvas divided by their number, rounded down: torchvision's way, which its published weights expect.
            ``center``: on its centre.
    """

    def __init__(self, *, base: Sequence[Tensor], levels: Sequence[int], convention: Convention) -> None:
        super().__init__()
        self.level_numbers = tuple(levels)
        self.convention = convention
        self.per_cell = len(base[0])
        for level, boxes in zip(levels, base, strict=True):
            self.register_buffer(f"base_p{level}", boxes.float(), persistent=False)

    def forward(self, shapes: Sequence[tuple[int, int]], canvas: tuple[int, int]) -> Places:
        """Anchors of levels with so many rows and columns, on a canvas of that height and width."""
        parts: list[tuple[Tensor, ...]] = []
        n = self.per_cell
        for index, (number, (h, w)) in enumerate(zip(self.level_numbers, shapes, strict=True)):
            base: Tensor = getattr(self, f"base_p{number}")
            y = torch.arange(h, device=base.device)[:, None, None].expand(h, w, n)
            x = torch.arange(w, device=base.device)[None, :, None].expand(h, w, n)
            if self.convention == "corner":
                center = torch.stack([x * (canvas[1] // w), y * (canvas[0] // h)], dim=-1).to(base.dtype)
            else:
                center = (torch.stack([x, y], dim=-1) + 0.5) * 2**number
            boxes = center.repeat(1, 1, 1, 2) + base
            constant = torch.ones_like(y)
            parts.append((boxes.flatten(0, 2), (index * constant).flatten(), y.flatten(), x.flatten(),
                          (2**number * constant).flatten().to(base.dtype)))  # fmt: skip
        return Places(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def base_boxes(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """(n, 4) around the origin, rounded to whole pixels, as torchvision makes them: every size at every height / width,
    all sizes of the first ratio first."""
    return AnchorGenerator().generate_anchors(list(sizes), list(ratios))


def square(side: float) -> Tensor:
    """(1, 4) around the origin."""
    return torch.tensor([[-side, -side, side, side]]) / 2
