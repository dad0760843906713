"""Losses of the refinement module, the S-head and the T-head.

Sums over boxes, or one value a box (``class_losses``), in float32; the task divides by counts over all processes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mimicdet.ops.boxes import encode_deltas


def objectness_loss(logits: Tensor, positive: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy summed over all valid anchors (section 3.2).

    Args:
        logits: (...) objectness.
        positive, valid: (...) bool; padding is not valid.
    """
    loss = F.binary_cross_entropy_with_logits(logits, positive.to(logits.dtype), reduction="none")
    return (loss * valid).sum()


def box_loss(
    deltas: Tensor, targets: Tensor, boxes: Tensor, positive: Tensor, *, std: tuple[float, float, float, float]
) -> Tensor:
    """L1 between predicted deltas and those that lead from ``boxes`` to ``targets``, summed over positives.

    Args:
        deltas, targets, boxes: (..., 4).
        positive: (...) bool.
        std: standard deviations the deltas are divided by.
    """
    wanted = encode_deltas(targets, boxes, std=std)
    # where, not a product: the targets of negatives mean nothing and may be huge
    return (deltas - wanted).abs().where(positive[..., None], deltas.new_zeros(())).sum()


def class_losses(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross-entropy of each box: logits (..., K+1), classes (...) in 0..K -> (...). Ignored boxes (< 0) give 0."""
    flat = F.cross_entropy(logits.flatten(0, -2), classes.flatten(), reduction="none", ignore_index=-1)
    return flat.reshape(classes.shape)
