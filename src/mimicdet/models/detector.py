"""The contract of a detector: what it is made of, what it returns, where its predictions lie.

B images, A positions over all levels (level by level, row by row, anchor by anchor), R of them that are predicted at,
K classes.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from mimicdet.models.backbone import Backbone
from mimicdet.models.pyramid import Pyramid, PyramidFeatures, mask_padding

DIVISOR = 2**5  # Canvas sides must be multiples of this (the backbone's coarsest stride)
PRIOR_LOGIT = -math.log((1 - 0.01) / 0.01)
"""Dense predictors of objects start with this bias, that of a probability of 0.01: nearly all positions hold none."""


class Trunk(nn.Module):
    """Makes a pyramid of the levels that a backbone returns. A T-head with features of its own has a trunk too."""

    def __init__(self, *, backbone: Backbone, pyramid: Pyramid) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid

    @property
    def level_numbers(self) -> tuple[int, ...]:
        """Returns the pyramid's levels, finest first; level l has cells of 2^l pixels."""
        return self.pyramid.level_numbers

    @property
    def channels(self) -> int:
        """Returns the width of every pyramid level."""
        return self.pyramid.channels

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> PyramidFeatures:
        """Returns the pyramid of a padded batch.

        Args:
            images: (B, 3, H, W) RGB, uint8 or float in 0..1; H and W multiples of 32.
            sizes: (B, 2) int64, height and width of each image inside the canvas; None: the whole canvas.

        Raises:
            ValueError: another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % DIVISOR or images.shape[3] % DIVISOR:
            shape = tuple(images.shape)
            raise ValueError(f"images must be (B, 3, H, W) with H and W multiples of {DIVISOR}, got {shape}")
        normalised = mask_padding(self.backbone.normalise(images), sizes, 0)
        features: PyramidFeatures = self.pyramid(self.backbone(normalised), sizes)
        return features


def level_shapes(height: int, width: int, level_numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Returns rows and columns of a canvas's pyramid levels, each half of the one before, rounded up."""
    return [(-(-height // 2**l), -(-width // 2**l)) for l in level_numbers]


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
        """Returns (B, A) bool: positions whose cell overlaps the image; ``sizes`` (B, 2) is height, width."""
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

    def at(self, rows: Tensor) -> Self:
        """Returns the chosen ``rows`` (B, R') int64."""
        return type(self)(self.positions.gather(1, rows), at_rows(self.scores, rows), at_rows(self.boxes, rows))


def at_rows(values: Tensor, rows: Tensor) -> Tensor:
    """Returns (B, R', D), the chosen ``rows`` (B, R') int64 of each image's values (B, R, D)."""
    return values.gather(1, rows[..., None].expand(-1, -1, values.shape[2]))


class DenseMaps(NamedTuple):
    """Holds what a dense detector predicts everywhere, attached to the graph: what distillation reads."""

    features: tuple[Tensor, ...]  # (B, C, H_l, W_l) pyramid levels, finest first
    level_numbers: tuple[int, ...]  # level l has cells of 2^l pixels
    per_cell: int  # anchors of a cell, A = per_cell * the number of cells
    logits: Tensor  # (B, A, K) float32, a class's score is their sigmoid
    boxes: Tensor  # (B, A, 4) float32, not clipped
    valid: Tensor  # (B, A) bool, False on padding


class DetectionModel(nn.Module):
    """Defines what training, evaluation, prediction and export ask of a detector of K classes (no background)."""

    divisor = DIVISOR

    def __init__(self, *, trunk: Trunk, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.num_classes = num_classes

    def forward(
        self, images: Tensor, sizes: Tensor | None = None, *, dense: bool = False, top: int | None = 1000
    ) -> Predictions:
        """Predicts for a padded batch, and returns the best ``top`` rows of each image.

        Args:
            images: (B, 3, H, W) RGB, uint8 or float in 0..1; H and W multiples of ``divisor``.
            sizes: (B, 2) int64, height and width of each image inside the canvas; None: the whole canvas.
            dense: compute everything everywhere before the best rows are chosen; the rows are the same either way.
            top: R, at most; None: all.
        """
        raise NotImplementedError

    @property
    def final_head(self) -> nn.Module:
        """Returns the head that makes the predictions, and that ``optim.head_lr_factor`` is for."""
        raise NotImplementedError

    def dense_maps(self, images: Tensor, sizes: Tensor | None = None) -> DenseMaps:
        """Returns what a dense detector predicts everywhere; see :meth:`forward`. Faster R-CNN is none."""
        raise NotImplementedError


def log_odds(log_p: Tensor) -> Tensor:
    """Returns the logit whose sigmoid is a probability, from the probability's logarithm; finite up to 1."""
    return log_p - torch.log1p(-log_p.exp().clamp(max=1 - torch.finfo(log_p.dtype).eps))
