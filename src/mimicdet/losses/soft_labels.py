"""A teacher's scores as targets for the student's: (..., K) classes that are scored each by itself."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def soft_label_divergences(teacher: Tensor, student: Tensor, *, temperature: float) -> Tensor:
    """KL(teacher || student) of each class's Bernoulli distribution: logits (..., K) twice -> (..., K).

    Args:
        temperature: T > 0; scores are sigmoid(logits / T). The result is multiplied by T^2, so that its gradient does
            not depend on T to first order (Hinton et al., 2015).
    """
    target = (teacher / temperature).sigmoid()
    logits = student / temperature
    cross = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    # The teacher's own entropy, so that the divergence is 0 where both agree
    own = F.binary_cross_entropy_with_logits(teacher / temperature, target, reduction="none")
    return (cross - own) * temperature**2
