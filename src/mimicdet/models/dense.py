"""What a one-stage detector returns: pure tensors over anchor positions.

B images, A anchor positions over all levels (level by level, row by row), R positions that were
read (R = A in dense mode), K classes.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class DenseOutput(NamedTuple):
    """Predictions of a detector on a padded batch; ``mimicdet.models.decode`` makes detections of it.

    All boxes are x1 y1 x2 y2 in pixels of the padded, resized input, not clipped.
    """

    objectness: Tensor  # (B, A) logits of the refinement module; -inf on padding
    adjusted_boxes: Tensor  # (B, A, 4) anchors moved by the refinement module
    positions: Tensor  # (B, R) int64, indices into A that the S-head was computed at
    logits: Tensor  # (B, R, K+1) class logits at ``positions``; the last one is background
    boxes: Tensor  # (B, R, 4) adjusted boxes moved once more by the S-head
