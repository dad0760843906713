"""Trains MimicDet: S-head and T-head on one backbone, the S-head mimicking the T-head (sections 3.3, 3.4).

N boxes sampled for the T-head in a batch (at most 128 an image), A positions, R proposals.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mimicdet.config import InferenceSettings, MimicDetSettings
from mimicdet.data.batch import Batch
from mimicdet.inference.dataset import FunctionRunner
from mimicdet.inference.decode import Detections
from mimicdet.inference.detect import detect_with
from mimicdet.losses.feature_imitation import prediction_difference
from mimicdet.losses.mimicdet import box_loss, class_losses, class_mimic_distances, cosine_distances
from mimicdet.losses.rank_mimic import object_rank_loss
from mimicdet.losses.soft_labels import class_divergences
from mimicdet.models.anchors import ANCHOR_SIDE_IN_CELLS
from mimicdet.models.detector import Predictions, Trunk
from mimicdet.models.mimicdet import HEAD_STD, MimicDet, Refined
from mimicdet.models.pyramid import FinerLevel
from mimicdet.models.s_head import HeadOutput
from mimicdet.ops.boxes import decode_deltas, iou_of_pairs
from mimicdet.tasks.diagnostics import mimic_diagnostics, student_diagnostics
from mimicdet.tasks.student import Sampled, count_anchor_positives, dense_step, prepare, student_sums, total
from mimicdet.tasks.task import Task, TaskStep, WholeStep, divisors
from mimicdet.teachers.t_head import THead


class BothHeads(NamedTuple):
    """Holds what both heads say at the same positions; R of each of B images."""

    refined: Refined
    positions: Tensor  # (B, R) int64
    student: HeadOutput  # (B, R, ...) of the S-head
    teacher: HeadOutput  # (B, R, ...) of the T-head


class MimicTask(Task):
    """Trains MimicDet with its T-head: L_R + L_S + L_T + L_mimic.

    Args:
        t_head: the teacher; its boxes come from the same proposals as the S-head's.
        finer_level: builds the level below the detector's pyramid (P2) that a staggered pyramid needs, or None where
            the T-head pools from the detector's own levels (Table 4).
        own_trunk: a second backbone and pyramid that the T-head pools from instead (Table 5), or None.
    """

    detector: MimicDet

    def __init__(
        self,
        *,
        detector: MimicDet,
        t_head: THead,
        finer_level: FinerLevel | None,
        own_trunk: Trunk | None,
        settings: MimicDetSettings,
    ) -> None:
        super().__init__(detector=detector)
        self.t_head = t_head
        self.finer_level = finer_level
        self.own_trunk = own_trunk
        self.assign, self.mimic, self.loss = settings.assign, settings.mimic, settings.loss

    def count_positives(self, batch: Batch) -> Tensor:
        return count_anchor_positives(self.detector, batch, self.assign)

    def step(self, batch: Batch, whole: WholeStep | None = None) -> TaskStep:
        prepared = prepare(self.detector, batch, self.assign)
        chosen = prepared.balanced(self.detector, self.assign, self.assign.t_samples)  # (B, R)
        sums = student_sums(self.detector, batch, prepared, self.assign, also=chosen)
        sampled = prepared.sample(batch, chosen.nonzero())
        boxes, positive = sampled.boxes, sampled.positive
        teacher = self._pooled(batch.images, prepared.refined, batch.sizes, boxes, sampled.image, sampled.level)
        t_classification = class_losses(teacher.logits, sampled.classes).sum()
        t_boxes = box_loss(teacher.deltas, sampled.wanted, boxes, positive, std=HEAD_STD)
        # Both lists are in the same order, image by image and proposal by proposal
        shared = chosen[sums.chosen[:, 0], sums.chosen[:, 1]]
        student = HeadOutput(*(field[shared] for field in sums.head))
        if self.mimic.detach_teacher:
            teacher = HeadOutput(*(field.detach() for field in teacher))
        class_distance, box_distance = self._distances(teacher, student)
        mimicked = torch.ones_like(positive) if self.mimic.negatives else positive
        weight = self._weights(teacher, student, mimicked)
        shares = [None, sums.class_count, sums.box_count, chosen.sum(), mimicked.sum()]
        counts = divisors(shares, sums.anchor_positives, whole)
        parts = sums.parts(counts) | {
            "t_classification": t_classification / counts[3],
            "t_boxes": t_boxes / counts[3],
            "mimic_classification": (class_distance * weight).sum() / counts[4],
            "mimic_boxes": (box_distance * weight).sum() / counts[4],
            "mimic_rank": self._rank(batch, sampled, teacher, student),
        }
        divergences = class_divergences(teacher.logits, student.logits, temperature=1.0)  # (N,)
        parts["mimic_soft_labels"] = (divergences * weight).sum() / counts[4]
        summed = 2 if self.mimic.classification == "both" else 1
        cosines = {"class": 1 - class_distance / summed, "box": 1 - box_distance}
        losses = total(parts, self.loss)
        losses |= student_diagnostics(self.detector, batch, prepared, sums)
        losses |= mimic_diagnostics(cosines, positive, sampled.level, self.detector.trunk.level_numbers)
        return dense_step(self.detector, batch, prepared, losses, self.assign)

    def t_head_runner(self, device: torch.device) -> FunctionRunner:
        """Runs the T-head over a data set: on the boxes the S-head would see, with the same post-processing (Table 3).

        The caller sees to evaluation mode.
        """
        return FunctionRunner(self.detect_by_t_head, device, self.detector.divisor)

    @torch.no_grad()
    def detect_by_t_head(self, batch: Batch, inference: InferenceSettings) -> list[Detections]:
        """Detects with the T-head in each image of a batch."""

        def predict(images: Tensor, sizes: Tensor | None) -> Predictions:
            refined = self.detector.refine(images, sizes)
            positions = refined.best(inference.positions)
            teacher = self._t_head_at(images, refined, sizes, positions)
            return refined.predictions(positions, teacher.logits, teacher.deltas)

        return detect_with(predict, batch.images, batch.sizes, inference)

    @torch.no_grad()
    def both_heads(self, images: Tensor, sizes: Tensor, *, top: int) -> BothHeads:
        """Runs S-head and T-head at the same best ``top`` positions."""
        refined = self.detector.refine(images, sizes)
        positions = refined.best(top)
        teacher = self._t_head_at(images, refined, sizes, positions)
        return BothHeads(refined, positions, self.detector.s_head_at(refined, positions), teacher)

    @torch.no_grad()
    def t_head_on(self, images: Tensor, sizes: Tensor, boxes: Tensor, image: Tensor) -> HeadOutput:
        """Runs the T-head on any boxes (N, 4) of images (N,), each pooled from the level that its size belongs to."""
        refined = self.detector.refine(images, sizes)
        sides = refined.places.stride[refined.places.first] * ANCHOR_SIDE_IN_CELLS  # (L,)
        scale = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
        level = (scale[:, None] >= sides[1:]).sum(1)
        return self._pooled(images, refined, sizes, boxes, image, level)

    def _t_head_at(self, images: Tensor, refined: Refined, sizes: Tensor | None, positions: Tensor) -> HeadOutput:
        """The T-head on the adjusted boxes of ``positions`` (B, R); outputs (B, R, ...)."""
        b, r = positions.shape
        boxes = refined.adjusted_boxes.gather(1, positions[..., None].expand(-1, -1, 4))  # (B, R, 4)
        image = torch.arange(b, device=boxes.device)[:, None].expand_as(positions).flatten()
        level = refined.places.level[positions.flatten()]
        flat = self._pooled(images, refined, sizes, boxes.flatten(0, 1), image, level)
        return HeadOutput(*(field.reshape(b, r, -1) for field in flat))

    def _pooled(
        self, images: Tensor, refined: Refined, sizes: Tensor | None, boxes: Tensor, image: Tensor, level: Tensor
    ) -> HeadOutput:
        """The T-head on boxes (N, 4), each pooled from its level (index, (N,)), or one finer (section 3.1)."""
        levels, numbers = refined.pyramid.levels, self.detector.trunk.level_numbers
        if self.own_trunk is not None:
            levels, numbers = self.own_trunk(images, sizes).levels, self.own_trunk.level_numbers
        elif self.finer_level is not None:
            levels = (self.finer_level(refined.pyramid, sizes), *levels[:-1])
            numbers = (self.finer_level.level, *numbers[:-1])
        return self.t_head(levels, [2**l for l in numbers], boxes, image, level)

    def _weights(self, teacher: HeadOutput, student: HeadOutput, mimicked: Tensor) -> Tensor:
        """(N,) of each box's distances; mean 1 over the boxes that are mimicked, 0 elsewhere."""
        ones = mimicked.to(teacher.logits.dtype)
        if self.mimic.weighting == "none":
            return ones
        with torch.no_grad():
            scores = (head.logits.softmax(-1)[..., :-1] for head in (teacher, student))
            known = torch.ones(student.logits.shape[1] - 1, dtype=torch.bool, device=ones.device)
            apart = prediction_difference(*(s[None, :, None] for s in scores), known=known)[0]
            mean = (apart * ones).sum() / ones.sum().clamp(min=1)
            return apart * ones / mean.clamp(min=torch.finfo(mean.dtype).tiny)

    def _rank(self, batch: Batch, sampled: Sampled, teacher: HeadOutput, student: HeadOutput) -> Tensor:
        """Rank Mimicking over the positives among the sampled boxes: both heads score the same ones."""
        if batch.labels.numel() == 0:
            return student.logits.sum() * 0
        rows = sampled.positive.nonzero().squeeze(1)  # (P,)
        image, match = sampled.image[rows], sampled.match[rows]
        group = image * batch.labels.shape[1] + match
        label = batch.labels[image, match][:, None]
        objects = (batch.labels >= 0) & ~batch.crowd

        def divergence(theirs: Tensor, ours: Tensor) -> Tensor:
            return object_rank_loss(theirs, ours, group, objects, temperature=1.0)

        heads = (teacher, student)
        by_score = divergence(*(h.logits[rows].softmax(-1).gather(1, label).squeeze(1) for h in heads))
        moved = (decode_deltas(h.deltas[rows], sampled.boxes[rows], std=HEAD_STD) for h in heads)
        return by_score + divergence(*(iou_of_pairs(boxes, sampled.wanted[rows]) for boxes in moved))

    def _distances(self, teacher: HeadOutput, student: HeadOutput) -> tuple[Tensor, Tensor]:
        """1 - cosine on the classification and the regression path, (N,) each."""
        class_distance = class_mimic_distances(self.mimic.classification, teacher, student)
        return class_distance, cosine_distances(teacher.box_feature, student.box_feature)
