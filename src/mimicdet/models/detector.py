"""The contract of a detector: what it is made of, what it returns, where its predictions lie.

B images, A positions over all levels (level by level, row by row, anchor by anchor), R of them that are predicted at,
K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mimicdet.models.trunk import DIVISOR, Trunk


class Places(NamedTuple):
    """Says where each of the A positions, and the anchor there, lies."""

    anchors: Tensor  # (A, 4) float, x1 y1 x2 y2 in pixels of the padded input
    level: Tensor  # (A,) int64, index into the levels, 0 is the finest
    y: Tensor  # (A,) int64, row of the cell
    x: Tensor  # (A,) int64, column of the cell
    stride: Tensor  # (A,) float, pixels a cell
    first: Tensor  # (L,) int64, where each level begins in A
    rows: Tensor  # (L,) int64, cells of each level from top to bottom
    columns: Tensor  # (L,) int64, cells of each level from left to right

    def valid(self, sizes: Tensor) -> Tensor:
        """(B, A) bool: positions whose cell overlaps the image; ``sizes`` (B, 2) is height, width."""
        limits = sizes.to(self.stride.dtype)[:, :, None]  # (B, 2, 1)
        return (self.y * self.stride < limits[:, 0]) & (self.x * self.stride < limits[:, 1])


class Predictions(NamedTuple):
    """Holds a detector's predictions for a padded batch; ``mimicdet.inference.decode`` makes detections of them.

    A row is a position with its box and a score for every class. Boxes are x1 y1 x2 y2 in pixels of the padded,
    resized input, not clipped.
    """

    positions: Tensor  # (B, R) int64, indices into A
    scores: Tensor  # (B, R, K) in 0..1, 0 on padding
    boxes: Tensor  # (B, R, 4)

    def at(self, rows: Tensor) -> Predictions:
        """The chosen ``rows`` (B, R') int64."""
        index = rows[..., None]
        return Predictions(
            self.positions.gather(1, rows),
            self.scores.gather(1, index.expand(-1, -1, self.scores.shape[2])),
            self.boxes.gather(1, index.expand(-1, -1, 4)),
        )


class DenseMaps(NamedTuple):
    """Holds what a dense detector predicts everywhere, attached to the graph: what distillation reads."""

    features: tuple[Tensor, ...]  # (B, C, H_l, W_l) pyramid levels, finest first
    level_numbers: tuple[int, ...]  # level l has cells of 2^l pixels
    per_cell: int  # anchors of a cell, A = per_cell * the number of cells
    logits: Tensor  # (B, A, K) float32, a class's score is their sigmoid
    boxes: Tensor  # (B, A, 4) float32, not clipped
    valid: Tensor  # (B, A) bool, False on padding


class DetectionModel(nn.Module):
    """Defines what training, evaluation, prediction and export ask of every detector.

    Args:
        trunk: backbone and pyramid.
        num_classes: K, without the background.
    """

    divisor = DIVISOR
    """Sides of the canvas must be multiples of this."""

    def __init__(self, *, trunk: Trunk, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.num_classes = num_classes

    def forward(
        self, images: Tensor, sizes: Tensor | None = None, *, dense: bool = False, top: int | None = 1000
    ) -> Predictions:
        """Predictions for a padded batch, the best ``top`` rows of each image.

        Args:
            images: (B, 3, H, W) RGB, uint8 or float in 0..1; H and W multiples of ``divisor``.
            sizes: (B, 2) int64, height and width of each image inside the canvas; None: the whole canvas.
            dense: compute everything everywhere before the best rows are chosen; the rows are the same either way.
            top: R, at most; None: all.
        """
        raise NotImplementedError

    @property
    def final_head(self) -> nn.Module:
        """The head that makes the predictions, and that ``optim.head_lr_factor`` is for."""
        raise NotImplementedError

    def dense_maps(self, images: Tensor, sizes: Tensor | None = None) -> DenseMaps:
        """What a dense detector predicts everywhere; arguments as for :meth:`forward`. Faster R-CNN is none."""
        raise NotImplementedError


def log_odds(log_p: Tensor) -> Tensor:
    """The logit whose sigmoid is a probability, from the probability's logarithm; finite up to 1."""
    return log_p - torch.log1p(-log_p.exp().clamp(max=1 - torch.finfo(log_p.dtype).eps))
