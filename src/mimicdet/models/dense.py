"""What a one-stage detector returns, and what distillation needs of one: pure tensors over positions.

B images, A positions over all levels (level by level, row by row, anchor by anchor), R positions that were read
(R = A in dense mode), K classes.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class DenseOutput(NamedTuple):
    """Predictions of MimicDet on a padded batch; ``mimicdet.inference.decode`` makes detections of it.

    All boxes are x1 y1 x2 y2 in pixels of the padded, resized input, not clipped.
    """

    objectness: Tensor  # (B, A) logits of the refinement module; -inf on padding
    adjusted_boxes: Tensor  # (B, A, 4) anchors moved by the refinement module
    positions: Tensor  # (B, R) int64, indices into A that the S-head was computed at
    logits: Tensor  # (B, R, K+1) class logits at ``positions``; the last one is background
    boxes: Tensor  # (B, R, 4) adjusted boxes moved once more by the S-head


class ScoredOutput(NamedTuple):
    """Predictions of a detector that scores each class by itself, on a padded batch; boxes as in ``DenseOutput``."""

    positions: Tensor  # (B, R) int64, indices into A
    scores: Tensor  # (B, R, K) in 0..1, 0 on padding
    boxes: Tensor  # (B, R, 4)


class DenseMaps(NamedTuple):
    """All that a detector says of a padded batch, everywhere: what distillation reads. Attached to the graph."""

    features: tuple[Tensor, ...]  # (B, C, H_l, W_l) pyramid levels, finest first
    level_numbers: tuple[int, ...]  # level l has cells of 2^l pixels
    per_cell: int  # anchors of a cell, A = per_cell * the number of cells
    logits: Tensor  # (B, A, K) float32, a class's score is their sigmoid
    boxes: Tensor  # (B, A, 4) float32, not clipped
    valid: Tensor  # (B, A) bool, False on padding


class DenseDetector(Protocol):
    """A one-stage detector as prediction and distillation see it: MimicDet, RetinaNet, FCOS, ATSS, GFL."""

    divisor: int
    num_classes: int

    def dense_maps(self, images: Tensor, sizes: Tensor | None = None) -> DenseMaps:
        """Images (B, 3, H, W) uint8, or float in 0..1; ``sizes`` (B, 2) their extent on the canvas, None: all of it."""
        ...


def log_odds(log_p: Tensor) -> Tensor:
    """What the sigmoid makes the probability of again, from its logarithm; finite up to 1."""
    return log_p - torch.log1p(-log_p.exp().clamp(max=1 - torch.finfo(log_p.dtype).eps))
