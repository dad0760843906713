"""Training MimicDet alone: refinement module and S-head, no T-head (Table 1, first row)."""

from __future__ import annotations

import torch
from torch import Tensor

from mimicdet.assign import match_overlapping
from mimicdet.config import AssignSettings, LossSettings
from mimicdet.data.batch import Batch
from mimicdet.models.mimicdet import MimicDet
from mimicdet.tasks.diagnostics import student_diagnostics
from mimicdet.tasks.student import Prepared, StudentSums, count_anchor_positives, prepare, student_sums
from mimicdet.tasks.task import Task, TaskStep, WholeStep, divisors


class DetectTask(Task):
    """L_R + L_S.

    Args:
        detector: what ships.
        assign, loss: settings.
    """

    detector: MimicDet

    def __init__(self, *, detector: MimicDet, assign: AssignSettings, loss: LossSettings) -> None:
        super().__init__(detector=detector)
        self.assign = assign
        self.loss = loss

    def count_positives(self, batch: Batch) -> Tensor:
        return count_anchor_positives(self.detector, batch, self.assign)

    def step(self, batch: Batch, whole: WholeStep | None = None) -> TaskStep:
        prepared = prepare(self.detector, batch, self.assign)
        sums = student_sums(self.detector, batch, prepared, self.assign)
        counts = divisors([None, sums.class_count, sums.box_count], sums.anchor_positives, whole)
        losses = total(student_parts(sums, counts), self.loss)
        losses |= student_diagnostics(self.detector, batch, prepared, sums)
        return dense_step(self.detector, batch, prepared, losses, self.assign)


def dense_step(
    detector: MimicDet, batch: Batch, prepared: Prepared, losses: dict[str, Tensor], assign: AssignSettings
) -> TaskStep:
    """The step of a task that trains MimicDet.

    Objects are assigned by the S-head's rule, on all positions: the refinement module's leaves one position to most
    objects, and one has no order that Rank Mimicking could take over.
    """
    refined = prepared.refined
    return TaskStep(
        losses,
        lambda: match_overlapping(
            refined.adjusted_boxes,
            refined.valid,
            batch.boxes,
            batch.labels,
            batch.crowd,
            positive_iou=assign.positive_iou,
        ),
        lambda: detector.dense_maps_of(refined),
    )


def student_parts(sums: StudentSums, counts: Tensor) -> dict[str, Tensor]:
    """Loss parts of refinement module and S-head; ``counts``: positive anchors, class samples, box samples."""
    return {
        "refinement_objectness": sums.objectness / counts[0],
        "refinement_boxes": sums.refinement_boxes / counts[0],
        "s_classification": sums.classification / counts[1],
        "s_boxes": sums.boxes / counts[2],
    }


def total(parts: dict[str, Tensor], loss: LossSettings) -> dict[str, Tensor]:
    """The weighted sum as ``loss`` (with the gradient), and each part (without)."""
    weights = loss.model_dump()
    weighted = sum((weights[name] * part for name, part in parts.items()), start=torch.zeros(()))
    assert isinstance(weighted, Tensor)
    return {"loss": weighted} | {name: part.detach() for name, part in parts.items()}
