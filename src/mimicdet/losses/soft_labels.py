"""A teacher's scores as targets for the student's (Hinton et al., 2015).

Divergences are multiplied by the temperature's square, so that their gradients do not depend on it to first order.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mimicdet.losses.comparison import Comparison


def soft_labels(comparison: Comparison, *, temperature: float) -> Tensor:
    """The teacher's scores as targets: sum over sites and classes by the number of positives, 0-d."""
    teacher, student = (side.amax(2) for side in (comparison.teacher_logits, comparison.student_logits))  # (B, S, K)
    losses = soft_label_divergences(teacher, student, temperature=temperature)
    losses = losses.where(comparison.known & comparison.valid[..., None], 0)
    return losses.sum() / comparison.positive_count


def soft_label_divergences(teacher: Tensor, student: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) of classes that are scored each by itself: logits (..., K) twice -> (..., K).

    Args:
        temperature: T > 0; scores are sigmoid(logits / T).
    """
    target = (teacher / temperature).sigmoid()
    logits = student / temperature
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    # The teacher's own entropy, so that the divergence is 0 where both agree
    own = F.binary_cross_entropy_with_logits(teacher / temperature, target, reduction="none")
    return (cross - own) * temperature**2


def class_divergences(teacher: Tensor, student: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) of classes that exclude each other: logits (..., K+1) twice -> (...).

    Args:
        temperature: T > 0; scores are softmax(logits / T).
    """
    log_t, log_s = ((logits / temperature).log_softmax(-1) for logits in (teacher, student))
    return F.kl_div(log_s, log_t, reduction="none", log_target=True).sum(-1) * temperature**2
