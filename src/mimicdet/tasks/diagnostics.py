"""Computes numbers that tell how training goes, logged beside the losses. No gradients, no host synchronisation.

Rates over nothing (no objects, no positives) are NaN and are left out of averages by whoever logs them.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mimicdet.assign import NO_OBJECT
from mimicdet.data.batch import Batch
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.s_head import SHead
from mimicdet.tasks.student import Prepared, Sampled, StudentSums


@torch.no_grad()
def student_diagnostics(detector: MimicDet, batch: Batch, prepared: Prepared, sums: StudentSums) -> dict[str, Tensor]:
    """Returns the recall of proposals, the number of positives, and where the S-head's taps lie."""
    targets, places, numbers = prepared.targets, prepared.refined.places, detector.trunk.level_numbers
    objects = (batch.labels >= 0) & ~batch.crowd
    found = {
        "diag/recall_50": _mean(targets.best_iou >= 0.5, objects),
        "diag/recall_60": _mean(targets.best_iou >= 0.6, objects),
        "diag/proposals": prepared.proposals.valid.sum() / len(batch.labels),
        "diag/proposal_positives": (targets.match != NO_OBJECT).sum() / len(batch.labels),
    }
    found |= positives_by_level(prepared.anchor_match, places.level, numbers)
    if detector.s_head.alignment == "guided":
        sampled = prepared.sample(batch, sums.chosen)
        deltas = prepared.refined.deltas[sampled.image, sampled.position]
        found |= _taps(detector.s_head, deltas, sampled, numbers)
    return found


@torch.no_grad()
def positives_by_level(match: Tensor, level: Tensor, numbers: Sequence[int]) -> dict[str, Tensor]:
    """Returns the mean number of positives an image on each level.

    Args:
        match: (B, A) object of each anchor, negative for none.
        level: (A,) index of its level among the levels' ``numbers``.
    """
    counts = torch.zeros(len(numbers), device=match.device)
    counts.index_add_(0, level, (match >= 0).sum(0).float())
    means = counts / len(match)
    return {f"diag/anchor_positives_p{number}": mean for number, mean in zip(numbers, means, strict=True)}


def _taps(s_head: SHead, deltas: Tensor, sampled: Sampled, numbers: Sequence[int]) -> dict[str, Tensor]:
    """Share of a positive's taps inside its adjusted box; the mean length of its offsets in cells, also by level.

    Where there is a micro-network, also the mean length by level of what it gives to them.
    """
    level, positive = sampled.level, sampled.positive
    on_finest = level == 0  # where the layer has taps of its own
    both = (s_head.tap_statistics(deltas, finest=finest) for finest in (True, False))
    length, inside = (torch.where(on_finest, there, elsewhere) for there, elsewhere in zip(*both, strict=True))
    found = {"diag/taps_in_box": _mean(inside, positive), "diag/offset_length": _mean(length, positive)}
    by_level = {"diag/offset_length": length}
    if (offsets := s_head.guided_offsets).learned:
        taps = (offsets.from_network(deltas, finest=finest).unflatten(-1, (-1, 2)) for finest in (True, False))
        there, elsewhere = (offset.norm(dim=-1).mean(-1) for offset in taps)
        by_level["diag/learned_offset"] = torch.where(on_finest, there, elsewhere)
    for name, values in by_level.items():
        found |= {f"{name}_p{number}": _mean(values, positive & (level == i)) for i, number in enumerate(numbers)}
    return found


@torch.no_grad()
def mimic_diagnostics(
    cosines: Mapping[str, Tensor], positive: Tensor, level: Tensor, numbers: Sequence[int]
) -> dict[str, Tensor]:
    """Returns means of each path's cosines (N,): over all, over positives, and by ``level`` (N,), an index."""
    found: dict[str, Tensor] = {}
    for path, cosine in cosines.items():
        found |= {f"diag/cosine_{path}": cosine.mean(), f"diag/cosine_{path}_positives": _mean(cosine, positive)}
        both = torch.stack([cosine, torch.ones_like(cosine)])
        sums, counts = cosine.new_zeros(2, len(numbers)).index_add(1, level, both)
        found |= {f"diag/cosine_{path}_p{number}": mean for number, mean in zip(numbers, sums / counts, strict=True)}
    return found


def _mean(values: Tensor, of: Tensor) -> Tensor:
    return (values * of).sum() / of.sum()
