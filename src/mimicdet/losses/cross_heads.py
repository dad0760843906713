"""CrossKD (Wang et al., CVPR 2024): the student's hidden features pass through the rest of the teacher's head."""

from __future__ import annotations

from torch import Tensor

from mimicdet.losses.comparison import Comparison
from mimicdet.losses.one_stage import overlap_losses
from mimicdet.losses.soft_labels import soft_label_divergences


def cross_heads(comparison: Comparison, *, temperature: float) -> Tensor:
    """What the teacher's head makes of the student's hidden features, against what it makes of its own; 0-d.

    Divergence of the classes over the number of positives, and generalised IoU of the boxes, weighted by where the
    teacher sees something.
    """
    assert comparison.crossed is not None
    crossed = comparison.crossed()
    losses = soft_label_divergences(crossed.own_logits, crossed.logits.float(), temperature=temperature)
    classes = losses.where(crossed.valid[..., None], 0).sum() / comparison.positive_count
    overlaps = overlap_losses(crossed.boxes, crossed.own_boxes) * crossed.box_weight
    return classes + overlaps.sum() / crossed.weight_sum
