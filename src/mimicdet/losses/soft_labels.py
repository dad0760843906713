"""A teacher's predictions as targets for the student's: its own (Hinton et al., 2015), or, in CrossKD, what its head
makes of its own features for what it makes of the student's (Wang et al., CVPR 2024).

Divergences are multiplied by the temperature's square, so that their gradients do not depend on it to first order.
"""

import torch.nn.functional as F
from torch import Tensor

from mimicdet.losses.comparison import Comparison
from mimicdet.losses.one_stage import overlap_losses


def soft_labels(comparison: Comparison, *, temperature: float) -> Tensor:
    """Returns the divergence from the teacher's scores, summed, over the number of positives, 0-d."""
    teacher, student = (side.amax(2) for side in (comparison.teacher_logits, comparison.student_logits))  # (B, S, K)
    losses = soft_label_divergences(teacher, student, temperature=temperature)
    losses = losses.where(comparison.known & comparison.valid[..., None], 0)
    return losses.sum() / comparison.positive_count


def cross_heads(comparison: Comparison, *, temperature: float) -> Tensor:
    """Returns CrossKD's loss: what the teacher's head makes of the student's hidden features, against its own; 0-d.

    Divergence of the classes over the number of positives, and generalised IoU of the boxes, weighted by where the
    teacher sees something.
    """
    assert comparison.crossed is not None
    crossed = comparison.crossed()
    losses = soft_label_divergences(crossed.own_logits, crossed.logits.float(), temperature=temperature)
    classes = losses.where(crossed.valid[..., None], 0).sum() / comparison.positive_count
    overlaps = overlap_losses(crossed.boxes, crossed.own_boxes) * crossed.box_weight
    return classes + overlaps.sum() / crossed.weight_sum


def soft_label_divergences(teacher: Tensor, student: Tensor, *, temperature: float) -> Tensor:
    """Returns KL(teacher || student) of sigmoid(logits / temperature), class by class: (..., K) twice -> (..., K)."""
    target = (teacher / temperature).sigmoid()
    logits = student / temperature
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    # The teacher's own entropy, so that the divergence is 0 where both agree
    own = F.binary_cross_entropy_with_logits(teacher / temperature, target, reduction="none")
    return (cross - own) * temperature**2


def class_divergences(teacher: Tensor, student: Tensor, *, temperature: float) -> Tensor:
    """Returns KL(teacher || student) of softmax(logits / temperature): logits (..., K+1) twice -> (...)."""
    log_t, log_s = ((logits / temperature).log_softmax(-1) for logits in (teacher, student))
    return F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(-1) * temperature**2
