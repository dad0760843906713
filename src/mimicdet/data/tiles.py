"""Cuts large images into overlapping tiles (T of an image), and puts the tiles' N detections together again."""

import math
from collections.abc import Sequence
from numbers import Integral, Real
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from mimicdet.errors import UserError, writing
from mimicdet.ops.boxes import intersection_over_first

Window = tuple[int, int, int, int]
"""x1, y1, x2, y2 in whole pixels of the image."""
Found = tuple[Tensor, Tensor, Tensor]
"""Boxes (N, 4), scores (N,) and class indices (N,)."""

_BORDER = 0.01
"""A box that ends within this share of the tile's side (2 pixels at least) of a cut counts as cut by it."""
_COVERED = 0.7
"""A cut box goes when this share of it lies inside a larger one from another tile."""
_SCORE_RATIO = 0.5
"""It goes only when the larger box has at least this multiple of its score."""
LEAST_SIDE = 32
"""A user's tile has at least this side, below which an image becomes tiles without end, and shows nothing."""
MOST_OVERLAP = 0.9
"""A user's tiles have at most this share in common: beyond, most of the work is done again and again."""
_ANY_SIDE = 2**31
"""No image is longer: larger tiles are as good as these, and no floats hold all of them."""
_MOST_TILES = 1_000_000
"""An image is cut into this many tiles at most."""
_ROWS = 512
"""So many boxes are compared with all others at once, which bounds the memory."""


class Tiles(NamedTuple):
    """Says how images are cut into tiles."""

    side: int  # pixels
    overlap: float = 0.25  # share of the side that neighbours have in common at least, 0 to below 1

    def windows(self, height: int, width: int) -> list[Window]:
        """Returns the tiles of an image, as :func:`tile_windows` gives them."""
        return tile_windows(height, width, self.side, self.overlap)


def tiles_of(tile: int | None, overlap: float) -> Tiles | None:
    """Returns how a user's options cut images, None where ``tile`` is; UserError where they are out of range."""
    if tile is not None and (not isinstance(tile, Integral) or isinstance(tile, bool) or tile < LEAST_SIDE):
        raise UserError(f"tile must be a side in pixels from {LEAST_SIDE} up, not {writing(tile)}")
    if not isinstance(overlap, Real) or not 0 <= overlap <= MOST_OVERLAP:
        raise UserError(f"overlap must be a share of the tile from 0 to {MOST_OVERLAP}, not {writing(overlap)}")
    return None if tile is None else Tiles(min(int(tile), _ANY_SIDE), float(overlap))


def tile_windows(height: int, width: int, tile: int, overlap: float = 0.25) -> list[Window]:
    """Returns squares that cover an image of that height and width, row by row.

    All have the full side, unless the image is smaller, and neighbours lie evenly spaced: nothing sticks out, and no
    narrow strip is left over. An object up to the size of the overlap lies whole in at least one tile.
    """
    if tile < 1 or not 0 <= overlap < 1:
        raise ValueError(f"tile must be at least 1 and overlap in 0..1, not {tile} and {overlap}")
    stride = max(1, math.floor(tile * (1 - overlap)))
    number = math.prod(math.ceil(max(side - tile, 0) / stride) + 1 for side in (height, width))
    if number > _MOST_TILES:
        size = f"an image of {width} x {height} pixels"
        raise UserError(f"{size} would be cut into {number:,} tiles; give a larger --tile or a smaller --overlap")
    rows, columns = _starts(height, tile, stride), _starts(width, tile, stride)
    return [(x, y, min(x + tile, width), min(y + tile, height)) for y in rows for x in columns]


def _starts(length: int, tile: int, stride: int) -> list[int]:
    if length <= tile:
        return [0]
    steps = math.ceil((length - tile) / stride)
    return [round(i * (length - tile) / steps) for i in range(steps + 1)]


def merge_tile_detections(
    parts: Sequence[Found], windows: Sequence[Window], height: int, width: int, *, nms_iou: float
) -> Found:
    """Puts the detections of an image's tiles together to those of the image.

    An object that a tile's edge cuts is found twice: in part there, and whole in the neighbour. Suppression by IoU
    alone keeps both, since the part is small. So a box that ends at a cut goes first when most of it lies inside a
    larger box of the same class from another tile, with a score not much lower. Then class-wise NMS, as always.

    Args:
        parts: the detections of T tiles, in pixels of the tile; those returned are in pixels of the image, best first.
        nms_iou: of two boxes of a class that overlap more than this, the lower score goes.
    """
    device, dtype = parts[0][0].device, parts[0][0].dtype
    tiles = torch.tensor(windows, dtype=dtype, device=device)
    counts = torch.tensor([len(scores) for _, scores, _ in parts], device=device)
    tile = torch.arange(len(parts), device=device).repeat_interleave(counts)  # (N,) the tile a box comes from
    boxes, scores, labels = (torch.cat([part[i] for part in parts]) for i in range(3))
    boxes = boxes + tiles[tile, :2].repeat(1, 2)  # (N, 4), in pixels of the image
    kept = ~_covered_parts(boxes, scores, labels, tile, tiles, height, width)
    boxes, scores, labels = boxes[kept], scores[kept], labels[kept]
    best = batched_nms(boxes, scores.to(boxes.dtype), labels, nms_iou)
    return boxes[best], scores[best], labels[best]


def _covered_parts(
    boxes: Tensor, scores: Tensor, labels: Tensor, tile: Tensor, tiles: Tensor, height: int, width: int
) -> Tensor:
    """Finds the boxes that are the visible part of an object of which another tile shows more: (N,) bool."""
    image = tiles.new_tensor([0, 0, width, height])
    margin = ((tiles[:, 2:] - tiles[:, :2]).amax(1) * _BORDER).clamp(min=2)  # (T,)
    at_edge = (boxes - tiles[tile]).abs() <= margin[tile, None]  # (N, 4)
    cut = (at_edge & (tiles != image)[tile]).any(1)  # (N,); the image's own edges cut in every tile alike
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)  # (N,)
    covered = torch.zeros_like(cut)
    for rows in cut.nonzero().flatten().split(_ROWS):
        inside = intersection_over_first(boxes[rows], boxes) >= _COVERED  # (rows, N), as all below
        larger, trusted = area > area[rows, None], scores >= _SCORE_RATIO * scores[rows, None]
        same_class, elsewhere = labels == labels[rows, None], tile != tile[rows, None]
        covered[rows] = (inside & larger & same_class & elsewhere & trusted).any(1)
    return covered
