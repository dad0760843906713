"""Imitating a teacher's feature maps: PFI (Li et al., AAAI 2022) and what it is compared with.

B images, C channels, H W cells of one level, K classes, n anchors a cell.
"""

import torch
from torch import Tensor

from mimicdet.losses.comparison import Comparison


def imitation(comparison: Comparison) -> Tensor:
    """Returns Prediction-guided Feature Imitation, mean over the levels, 0-d; see :func:`imitation_loss`."""
    losses = []
    for pair in comparison.levels:
        apart = prediction_difference(pair.teacher_scores, pair.student_scores, known=comparison.known)
        losses.append(imitation_loss(apart, pair.feature_difference, pair.valid))
    return torch.stack(losses).mean()


def whole_map(comparison: Comparison) -> Tensor:
    """Returns FitNets' imitation of all cells alike, mean over the levels, 0-d; see :func:`whole_map_loss`."""
    return torch.stack([whole_map_loss(pair.feature_difference, pair.valid) for pair in comparison.levels]).mean()


def correlation(comparison: Comparison) -> Tensor:
    """Returns PKD's imitation up to a channel's scale and shift, mean over levels; see :func:`correlation_loss`."""
    return torch.stack([correlation_loss(pair.teacher, pair.student, pair.valid) for pair in comparison.levels]).mean()


def prediction_difference(teacher: Tensor, student: Tensor, *, known: Tensor) -> Tensor:
    """Returns P_dif (B, cells), the mean over a cell's anchors and classes of the squared difference of scores.

    Args:
        teacher, student: (B, cells, n, K) in 0..1.
        known: (K,) bool, classes that the teacher has.
    """
    squares = (teacher - student).square() * known
    return squares.mean(2).sum(-1) / known.sum()


def imitation_loss(prediction: Tensor, feature: Tensor, valid: Tensor) -> Tensor:
    """Returns PFI on one level, the mean of P F over its cells: features are imitated where predictions differ.

    P has no gradient, and is divided by its mean over the level, because differences of probabilities are tiny.

    Args:
        prediction, feature: (B, cells), P_dif and F_dif.
        valid: (B, cells) bool, False on padding.
    """
    count = valid.sum().clamp(min=1)
    prediction = prediction.detach()
    mean = (prediction * valid).sum() / count
    prediction = prediction / mean.clamp(min=torch.finfo(mean.dtype).tiny)
    return (prediction * feature * valid).sum() / count


def whole_map_loss(feature: Tensor, valid: Tensor) -> Tensor:
    """Returns the mean of F_dif (B, cells) over all cells of a level (FitNets; Romero et al., ICLR 2015)."""
    return (feature * valid).sum() / valid.sum().clamp(min=1)


def correlation_loss(teacher: Tensor, student: Tensor, valid: Tensor) -> Tensor:
    """Returns 1 - Pearson correlation over a batch's cells, mean over channels (PKD; Cao et al., NeurIPS 2022).

    Args:
        teacher, student: (B, C, H, W).
        valid: (B, H W) bool. Channels that are constant in either have correlation 0.
    """
    weight = valid[:, None].to(teacher.dtype) / valid.sum().clamp(min=1)  # (B, 1, cells)

    def standardised(feature: Tensor) -> Tensor:
        flat = feature.flatten(2)
        mean = (flat * weight).sum((0, 2), keepdim=True)
        centred = flat - mean
        variance = (centred.square() * weight).sum((0, 2), keepdim=True)
        rounding = 100 * torch.finfo(flat.dtype).eps ** 2 * (1 + mean.detach().square())
        return torch.where(variance > rounding, centred * variance.maximum(rounding).rsqrt(), 0)

    return 1 - (standardised(teacher) * standardised(student) * weight).sum((0, 2)).mean()
