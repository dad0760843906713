"""MimicDet's training: S-head and T-head on one backbone, the S-head mimicking the T-head (sections 3.3, 3.4).

N boxes sampled for the T-head in a batch (at most 128 an image), A positions, R proposals.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimicdet.assign import NO_OBJECT, sample_balanced
from mimicdet.config import AssignSettings, LossSettings, MimicSettings
from mimicdet.data.batch import Batch
from mimicdet.inference.decode import Detections, decode
from mimicdet.inference.flips import Flips, detect_in_views
from mimicdet.losses.detection import box_loss, class_losses
from mimicdet.losses.feature_imitation import prediction_difference
from mimicdet.losses.mimic import class_mimic_distances, cosine_distances
from mimicdet.losses.rank_mimic import rank_divergences, rank_loss
from mimicdet.losses.soft_labels import class_divergences
from mimicdet.models.dense import DenseOutput
from mimicdet.models.grid import ANCHOR_SIDE_IN_CELLS
from mimicdet.models.mimicdet import HEAD_STD, MimicDet, Refined
from mimicdet.models.pyramid import FinerLevel
from mimicdet.models.s_head import HeadOutput
from mimicdet.ops.boxes import decode_deltas, iou_of_pairs
from mimicdet.tasks.detect import student_parts, total
from mimicdet.tasks.diagnostics import mimic_diagnostics, student_diagnostics
from mimicdet.tasks.normalise import WholeStep, divisors
from mimicdet.tasks.student import count_anchor_positives, matched_boxes, prepare, student_sums
from mimicdet.teachers.own_features import OwnFeatures
from mimicdet.teachers.t_head import THead


class MimicTask(nn.Module):
    """L_R + L_S + L_T + L_mimic.

    Args:
        detector: what ships.
        t_head: the teacher; its boxes come from the same proposals as the S-head's.
        finer_level: builds the level below the detector's pyramid (P2) that a staggered pyramid needs, or None where
            the T-head pools from the detector's own levels (Table 4).
        own_features: a second backbone and pyramid that the T-head pools from instead (Table 5), or None.
        assign, mimic, loss: settings.
    """

    def __init__(
        self,
        *,
        detector: MimicDet,
        t_head: THead,
        finer_level: FinerLevel | None,
        own_features: OwnFeatures | None = None,
        assign: AssignSettings,
        mimic: MimicSettings,
        loss: LossSettings,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.t_head = t_head
        self.finer_level = finer_level
        self.own_features = own_features
        self.assign = assign
        self.mimic = mimic
        self.loss = loss

    def count_positives(self, batch: Batch) -> Tensor:
        """0-d float, for ``WholeStep``."""
        return count_anchor_positives(self.detector, batch, self.assign)

    def forward(self, batch: Batch, whole: WholeStep | None = None) -> dict[str, Tensor]:
        """``loss`` (weighted sum), its parts unweighted, and diagnostics under ``diag/``; 0-d tensors.

        Args:
            whole: of the step that the batch is a part of; None: the batch is the step.
        """
        prepared = prepare(self.detector, batch, self.assign)
        proposals, targets = prepared.proposals, prepared.targets
        sampled = sample_balanced(
            targets.classes, prepared.keys[..., 1], num_classes=self.detector.num_classes,
            count=self.assign.t_samples, positive_fraction=self.assign.t_positive_fraction,
        )  # fmt: skip
        sums = student_sums(self.detector, batch, prepared, self.assign, also=sampled)

        image, row = sampled.nonzero().unbind(1)
        boxes, match = proposals.boxes[image, row], targets.match[image, row]
        positive = match != NO_OBJECT
        level = prepared.refined.grid.level[proposals.positions[image, row]]
        teacher = self._teach(batch.images, prepared.refined, batch.sizes, boxes, image, level)
        t_classification = class_losses(teacher.logits, targets.classes[image, row]).sum()
        wanted = matched_boxes(batch.boxes, image, match)
        t_boxes = box_loss(teacher.deltas, wanted, boxes, positive, std=HEAD_STD)

        # Both lists are in the same order, image by image and proposal by proposal
        chosen = sampled[sums.chosen[:, 0], sums.chosen[:, 1]]
        student = HeadOutput(*(field[chosen] for field in sums.head))
        class_distance, box_distance = self._distances(teacher, student)
        mimicked = torch.ones_like(positive) if self.mimic.negatives else positive
        weight = self._weights(teacher, student, mimicked)

        counts = divisors(
            [None, sums.class_count, sums.box_count, sampled.sum(), mimicked.sum()], sums.anchor_positives, whole
        )
        parts = student_parts(sums, counts) | {
            "t_classification": t_classification / counts[3],
            "t_boxes": t_boxes / counts[3],
            "mimic_classification": (class_distance * weight).sum() / counts[4],
            "mimic_boxes": (box_distance * weight).sum() / counts[4],
            "mimic_rank": self._rank(batch, teacher, student, boxes, wanted, image, match),
            "mimic_soft_labels": (self._divergences(teacher, student) * weight).sum() / counts[4],
        }
        summed = 2 if self.mimic.classification == "both" else 1
        cosines = {"class": 1 - class_distance / summed, "box": 1 - box_distance}
        return (
            total(parts, self.loss)
            | student_diagnostics(self.detector, batch, prepared, sums)
            | mimic_diagnostics(cosines, positive, level, self.detector.pyramid.level_numbers)
        )

    @torch.no_grad()
    def detect_teacher(
        self,
        batch: Batch,
        *,
        top: int,
        score_threshold: float,
        nms_iou: float,
        max_detections: int,
        flips: Flips = "none",
    ) -> list[Detections]:
        """Detections of the T-head on the boxes the S-head would see, with the same post-processing (Table 3)."""

        def detect_once(images: Tensor) -> list[Detections]:
            return decode(
                self._teacher_output(images, self.detector.refine(images, batch.sizes), batch.sizes, top),
                batch.sizes,
                score_threshold=score_threshold,
                nms_iou=nms_iou,
                max_detections=max_detections,
                top=top,
            )

        return detect_in_views(
            detect_once, batch.images, batch.sizes, flips=flips, nms_iou=nms_iou, max_detections=max_detections
        )

    @torch.no_grad()
    def outputs(self, images: Tensor, sizes: Tensor, *, top: int) -> tuple[DenseOutput, DenseOutput]:
        """Of the S-head, which is the detector's, and of the T-head, at the same best ``top`` positions."""
        refined = self.detector.refine(images, sizes)
        return self.detector.predict(refined, top=top), self._teacher_output(images, refined, sizes, top)

    def _teacher_output(self, images: Tensor, refined: Refined, sizes: Tensor, top: int) -> DenseOutput:
        """As the detector's output, with the T-head's logits and boxes at the best ``top`` positions."""
        b, a = refined.objectness.shape
        objectness = refined.objectness.masked_fill(~refined.valid, float("-inf"))
        positions = objectness.topk(min(top, a), dim=1).indices
        boxes = refined.adjusted_boxes.gather(1, positions[..., None].expand(-1, -1, 4))
        image = torch.arange(b, device=boxes.device)[:, None].expand_as(positions)
        teacher = self._teach(
            images, refined, sizes, boxes.flatten(0, 1), image.flatten(), refined.grid.level[positions.flatten()]
        )
        return DenseOutput(
            objectness=objectness,
            adjusted_boxes=refined.adjusted_boxes,
            positions=positions,
            logits=teacher.logits.reshape(b, positions.shape[1], -1),
            boxes=decode_deltas(teacher.deltas.reshape(boxes.shape), boxes, std=HEAD_STD),
        )

    def _teach(
        self, images: Tensor, refined: Refined, sizes: Tensor, boxes: Tensor, image: Tensor, level: Tensor
    ) -> HeadOutput:
        """The T-head on boxes (N, 4), each pooled from its level (index, (N,)), or one finer (section 3.1)."""
        levels: tuple[Tensor, ...] = refined.pyramid.levels
        numbers = self.detector.pyramid.level_numbers
        if self.own_features is not None:
            levels, numbers = self.own_features(images, sizes), self.own_features.pyramid.level_numbers
        elif self.finer_level is not None:
            levels = (self.finer_level(refined.pyramid, sizes), *levels[:-1])
            numbers = (self.finer_level.level, *numbers[:-1])
        return self.t_head(levels, [2**l for l in numbers], boxes, image, level)

    @torch.no_grad()
    def look(self, images: Tensor, sizes: Tensor, boxes: Tensor, image: Tensor) -> HeadOutput:
        """The T-head on any boxes (N, 4) of images (N,); each is pooled from the level that its size belongs to."""
        refined = self.detector.refine(images, sizes)
        sides = refined.grid.stride[refined.grid.first] * ANCHOR_SIDE_IN_CELLS
        scale = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1).sqrt()
        level = (scale[:, None] >= sides[1:]).sum(1)
        return self._teach(images, refined, sizes, boxes, image, level)

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

    def _rank(
        self, batch: Batch, teacher: HeadOutput, student: HeadOutput, boxes: Tensor, wanted: Tensor, image: Tensor,
        match: Tensor,
    ) -> Tensor:  # fmt: skip
        """Rank Mimicking over the positives among the sampled boxes: both heads score the same ones."""
        groups = batch.labels.numel()
        rows = (match != NO_OBJECT).nonzero().squeeze(1)
        zero = student.logits.sum() * 0
        if groups == 0:
            return zero
        group = image[rows] * batch.labels.shape[1] + match[rows]
        label = batch.labels[image[rows], match[rows]]
        objects = (batch.labels >= 0) & ~batch.crowd

        def divergence(theirs: Tensor, ours: Tensor) -> Tensor:
            theirs = theirs.detach() if self.mimic.detach_teacher else theirs
            found = rank_divergences(theirs, ours, group, groups, temperature=self.mimic.rank_temperature)
            return rank_loss(found, objects)

        total = zero
        if self.mimic.rank_which != "localisation":
            total = total + divergence(
                *(head.logits[rows].softmax(-1).gather(1, label[:, None]).squeeze(1) for head in (teacher, student))
            )
        if self.mimic.rank_which != "classification":
            total = total + divergence(
                *(
                    iou_of_pairs(decode_deltas(head.deltas[rows], boxes[rows], std=HEAD_STD), wanted[rows])
                    for head in (teacher, student)
                )
            )
        return total

    def _distances(self, teacher: HeadOutput, student: HeadOutput) -> tuple[Tensor, Tensor]:
        """1 - cosine on the classification and the regression path, (N,) each."""
        if self.mimic.detach_teacher:
            teacher = HeadOutput(*(field.detach() for field in teacher))
        class_distance = class_mimic_distances(
            self.mimic.classification,
            teacher_logits=teacher.logits,
            student_logits=student.logits,
            teacher_feature=teacher.class_feature,
            student_feature=student.class_feature,
        )
        return class_distance, cosine_distances(teacher.box_feature, student.box_feature)

    def _divergences(self, teacher: HeadOutput, student: HeadOutput) -> Tensor:
        """Of the S-head's class scores from the T-head's, (N,)."""
        theirs = teacher.logits.detach() if self.mimic.detach_teacher else teacher.logits
        return class_divergences(theirs, student.logits, temperature=self.mimic.soft_temperature)
