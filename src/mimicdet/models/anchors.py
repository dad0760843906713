"""Places anchors at every cell of every pyramid level: A over all, level by level, row by row, n anchors a cell."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator

from mimicdet.models.detector import Places, level_shapes

ANCHOR_SIDE_IN_CELLS = 4  # Side of MimicDet's anchors, S_l = 4 * 2^l: 32 px on P3 .. 512 px on P7 (section 3.2)
Convention = Literal["corner", "center"]


class Anchors(nn.Module):
    """Repeats base boxes at every cell.

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

    def forward(self, shapes: Sequence[tuple[int, int]], canvas: tuple[int, int] = (0, 0)) -> Places:
        """Places anchors on levels with so many rows and columns; ``corner`` also reads the canvas's (H, W)."""
        parts: list[tuple[Tensor, ...]] = []
        starts, start, n = [], 0, self.per_cell
        for index, (number, (h, w)) in enumerate(zip(self.level_numbers, shapes, strict=True)):
            base = self.get_buffer(f"base_p{number}")  # (n, 4)
            y = torch.arange(h, device=base.device)[:, None, None].expand(h, w, n)
            x = torch.arange(w, device=base.device)[None, :, None].expand(h, w, n)
            if self.convention == "corner":
                center = torch.stack([x * (canvas[1] // w), y * (canvas[0] // h)], dim=-1).to(base.dtype)
            else:
                center = (torch.stack([x, y], dim=-1) + 0.5) * 2**number  # (h, w, n, 2)
            boxes = (center.repeat(1, 1, 1, 2) + base).flatten(0, 2)  # (h w n, 4)
            constant = torch.ones_like(y).flatten()
            stride = (2**number * constant).to(base.dtype)
            parts.append((boxes, index * constant, y.flatten(), x.flatten(), stride))
            starts.append(start)
            start += h * w * n
        anchors, level, y, x, stride = (torch.cat(columns) for columns in zip(*parts, strict=True))
        tables = (starts, [h for h, _ in shapes], [w for _, w in shapes])
        first, rows, columns = (torch.tensor(values, device=level.device) for values in tables)
        return Places(anchors, level, y, x, stride, first, rows, columns)

    def on_canvas(self, images: Tensor) -> Places:
        """Places anchors on the levels of a padded batch (B, 3, H, W)."""
        canvas = (images.shape[2], images.shape[3])
        return self.forward(level_shapes(*canvas, self.level_numbers), canvas)


def base_boxes(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """Returns boxes (n, 4) around the origin, rounded to whole pixels as torchvision's are.

    Every size comes at every height / width, all sizes of the first ratio first.
    """
    return AnchorGenerator().generate_anchors(list(sizes), list(ratios))


def square_anchors(levels: Sequence[int], *, side_in_cells: float, convention: Convention = "center") -> Anchors:
    """Returns one square anchor a cell, ``side_in_cells`` cells wide on every level."""
    sides = [side_in_cells * 2**level for level in levels]
    base = [torch.tensor([[-side, -side, side, side]]) / 2 for side in sides]
    return Anchors(base=base, levels=levels, convention=convention)
