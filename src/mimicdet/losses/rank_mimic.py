"""Rank Mimicking: the student orders an object's positives as the teacher does (Li et al., AAAI 2022).

P positives of a batch, each of one object; G = B M groups, one an object.
"""

from typing import Literal

import torch
from torch import Tensor

from mimicdet.losses.comparison import Comparison

Which = Literal["classification", "localisation", "both"]


def rank_mimicking(
    comparison: Comparison, *, which: Which, score: Literal["sigmoid", "logit"], temperature: float
) -> Tensor:
    """Returns Rank Mimicking's loss of scores, of IoUs, or of each in turn (summed), 0-d.

    Args:
        which: what an object's positives are ranked by.
        score: rank by the logit itself, or by its sigmoid.
        temperature: see :func:`rank_divergences`.
    """
    positives, objects = comparison.positives, comparison.objects
    total = positives.student_logits.new_zeros(())
    if which != "localisation":
        sides = (positives.teacher_logits, positives.student_logits)
        sides = (sides[0].sigmoid(), sides[1].sigmoid()) if score == "sigmoid" else sides
        total = total + object_rank_loss(*sides, positives.group, objects, temperature=temperature)
    if which != "classification":
        sides = (positives.teacher_iou, positives.student_iou)
        total = total + object_rank_loss(*sides, positives.group, objects, temperature=temperature)
    return total


def group_log_softmax(values: Tensor, group: Tensor, groups: int) -> Tensor:
    """Returns the log of the softmax over each group's own values: (P,), (P,) int64 in 0..groups-1 -> (P,)."""
    most = values.detach().new_full((groups,), -torch.inf).scatter_reduce(0, group, values.detach(), "amax")
    shifted = values - most[group]
    total = torch.zeros_like(most).index_add(0, group, shifted.exp())
    return shifted - total[group].log()


def rank_divergences(teacher: Tensor, student: Tensor, group: Tensor, groups: int, *, temperature: float) -> Tensor:
    """Returns KL(teacher || student) (groups,) of each group's distribution over its positives; 0 without any.

    Nothing is sorted: sorted values would no longer tell which box has which rank.

    Args:
        teacher, student: (P,) what the positives are ranked by, such as scores or IoUs.
        group: (P,) int64 in 0..groups-1.
        temperature: T > 0; the distributions are softmax(values / T).
    """
    log_t = group_log_softmax(teacher / temperature, group, groups)
    log_s = group_log_softmax(student / temperature, group, groups)
    return student.new_zeros(groups).index_add(0, group, log_t.exp() * (log_t - log_s))


def rank_loss(divergences: Tensor, objects: Tensor) -> Tensor:
    """Returns the mean over objects, 0 without positives, then images: (B M,), (B, M) bool, False on padding -> 0-d."""
    sums = divergences.reshape(len(objects), -1).sum(1)
    return (sums / objects.sum(1).clamp(min=1)).mean()


def object_rank_loss(teacher: Tensor, student: Tensor, group: Tensor, objects: Tensor, *, temperature: float) -> Tensor:
    """Returns :func:`rank_loss` of :func:`rank_divergences`; 0 and attached to the graph without objects."""
    if not (groups := objects.numel()):
        return student.sum()
    return rank_loss(rank_divergences(teacher, student, group, groups, temperature=temperature), objects)
