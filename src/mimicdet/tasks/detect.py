"""Training a detector alone: refinement module and S-head, no T-head (Table 1, first row)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimicdet.assign import match_overlapping
from mimicdet.config import AssignSettings, LossSettings
from mimicdet.data.batch import Batch
from mimicdet.models.mimicdet import MimicDet
from mimicdet.tasks.diagnostics import student_diagnostics
from mimicdet.tasks.normalise import WholeStep, divisors
from mimicdet.tasks.step import TaskStep
from mimicdet.tasks.student import StudentSums, count_anchor_positives, prepare, student_sums


class DetectTask(nn.Module):
    """L_R + L_S.

    Args:
        detector: what ships.
        assign, loss: settings.
    """

    def __init__(self, *, detector: MimicDet, assign: AssignSettings, loss: LossSettings) -> None:
        super().__init__()
        self.detector = detector
        self.assign = assign
        self.loss = loss

    def forward(self, batch: Batch, whole: WholeStep | None = None) -> dict[str, Tensor]:
        """``loss`` (weighted sum), its parts unweighted, and diagnostics under ``diag/``; 0-d tensors.

        Args:
            whole: of the step that the batch is a part of; None: the batch is the step.
        """
        return self.step(batch, whole).losses

    def count_positives(self, batch: Batch) -> Tensor:
        """0-d float, for ``WholeStep``."""
        return count_anchor_positives(self.detector, batch, self.assign)

    def step(self, batch: Batch, whole: WholeStep | None = None) -> TaskStep:
        """:meth:`forward`, and what distillation reads."""
        prepared = prepare(self.detector, batch, self.assign)
        sums = student_sums(self.detector, batch, prepared, self.assign)
        counts = divisors([None, sums.class_count, sums.box_count], sums.anchor_positives, whole)
        parts = student_parts(sums, counts)
        losses = total(parts, self.loss) | student_diagnostics(self.detector, batch, prepared, sums)
        refined = prepared.refined
        return TaskStep(
            losses,
            # The S-head's rule, on all positions: the refinement module's leaves one position to most objects, and one
            # has no order that Rank Mimicking could take over
            lambda: match_overlapping(
                refined.adjusted_boxes, refined.valid, batch.boxes, batch.labels, batch.crowd,
                positive_iou=self.assign.positive_iou,
            ),
            lambda: self.detector.dense_maps_of(refined),
        )  # fmt: skip


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
    weighted = sum((getattr(loss, name) * part for name, part in parts.items()), start=torch.zeros(()))
    assert isinstance(weighted, Tensor)
    return {"loss": weighted} | {name: part.detach() for name, part in parts.items()}
