"""Numbers that tell how training goes, logged beside the losses. No gradients, no host synchronisation.

Rates over nothing (no objects, no positives) are NaN and are left out of averages by whoever logs them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mimicdet.assign import NO_OBJECT
from mimicdet.data.batch import Batch
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.s_head import SHead
from mimicdet.tasks.student import Prepared, StudentSums


@torch.no_grad()
def student_diagnostics(detector: MimicDet, batch: Batch, prepared: Prepared, sums: StudentSums) -> dict[str, Tensor]:
    """Recall of proposals, positives, and where the S-head's taps lie."""
    targets, grid = prepared.targets, prepared.refined.grid
    objects = (batch.labels >= 0) & ~batch.crowd
    found = {
        "diag/recall_50": _share(targets.best_iou >= 0.5, objects),
        "diag/recall_60": _share(targets.best_iou >= 0.6, objects),
        "diag/proposals": prepared.proposals.valid.sum() / len(batch.labels),
        "diag/proposal_positives": (targets.match != NO_OBJECT).sum() / len(batch.labels),
    }
    per_level = torch.zeros(len(grid.first), device=grid.level.device)
    per_level.index_add_(0, grid.level, (prepared.anchor_match != NO_OBJECT).sum(0).float())
    for number, count in zip(detector.pyramid.level_numbers, per_level, strict=True):
        found[f"diag/anchor_positives_p{number}"] = count / len(batch.labels)
    if detector.s_head.alignment == "guided":
        image, row = sums.chosen.unbind(1)
        positions = prepared.proposals.positions[image, row]
        positive = targets.match[image, row] != NO_OBJECT
        found |= _taps(detector.s_head, prepared.refined.deltas[image, positions], grid.level[positions] == 0, positive)
    return found


def _taps(s_head: SHead, deltas: Tensor, on_finest: Tensor, positive: Tensor) -> dict[str, Tensor]:
    """Share of a positive's taps inside its adjusted box, and the mean length of their offsets in cells."""
    inside_sum = length_sum = count = deltas.new_zeros(())
    for finest, members in ((True, on_finest & positive), (False, ~on_finest & positive)):
        offset, inside = s_head.tap_statistics(deltas, finest=finest)
        inside_sum = inside_sum + (inside * members).sum()
        length_sum = length_sum + (offset * members).sum()
        count = count + members.sum()
    return {"diag/taps_in_box": inside_sum / count, "diag/offset_length": length_sum / count}


@torch.no_grad()
def mimic_diagnostics(class_distance: Tensor, box_distance: Tensor, positive: Tensor) -> dict[str, Tensor]:
    """Mean cosine of each path over the sampled boxes and over the positives among them; inputs (N,)."""
    return {
        "diag/cosine_class": 1 - class_distance.mean(),
        "diag/cosine_box": 1 - box_distance.mean(),
        "diag/cosine_class_positives": 1 - _mean(class_distance, positive),
        "diag/cosine_box_positives": 1 - _mean(box_distance, positive),
    }


def _share(hit: Tensor, of: Tensor) -> Tensor:
    return (hit & of).sum() / of.sum()


def _mean(values: Tensor, of: Tensor) -> Tensor:
    return (values * of).sum() / of.sum()
