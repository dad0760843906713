"""Compares student and two-stage teacher, which scores, moves and describes the student's own boxes.

N boxes chosen in a batch: the positives, and the student's best guesses. K classes, D features of a box.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mimicdet.assign import sample_some
from mimicdet.config import InferenceSettings
from mimicdet.data.batch import empty_batch
from mimicdet.inference.decode import Detections
from mimicdet.losses.comparison import Comparison, LevelPair, Positives
from mimicdet.models.detector import DenseMaps, DetectionModel
from mimicdet.models.faster_rcnn import SecondStage
from mimicdet.models.mimicdet import HEAD_STD
from mimicdet.ops.boxes import clip_to_sizes, decode_deltas, iou_of_pairs
from mimicdet.ops.precision import full_precision
from mimicdet.tasks.mimic import MimicTask
from mimicdet.tasks.task import StudentView, mean_over_processes
from mimicdet.teachers.roi import RoiTeacher


class MimicHead:
    """Puts the T-head of a trained mimic task behind the contract of two-stage teachers."""

    def __init__(self, *, task: MimicTask) -> None:
        self.network = task
        self.num_features = task.t_head.classifier.in_features

    def second_stage(self, images: Tensor, sizes: Tensor, boxes: Tensor, image: Tensor) -> SecondStage:
        """See ``mimicdet.teachers.roi.RoiHead``."""
        seen = self.network.t_head_on(images, sizes, boxes, image)
        moved = decode_deltas(seen.deltas, boxes, std=HEAD_STD)[:, None]
        return SecondStage(seen.logits.roll(1, dims=1), moved, seen.class_feature)  # the background comes first there

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """See ``mimicdet.teachers.roi.RoiHead``; with the default settings."""
        return self.network.detect_by_t_head(empty_batch(images, sizes), InferenceSettings())


class RoiLesson(NamedTuple):
    """Says how a two-stage teacher and the student go together."""

    teacher: RoiTeacher
    samples: int  # boxes of an image that it looks at

    def adapters(self, student: DetectionModel, reads: frozenset[str]) -> nn.ModuleDict:
        """Makes a linear layer from the student's pyramid to the teacher's features of a box; it learns along."""
        linear = {"levels": nn.Linear(student.trunk.channels, self.teacher.num_features)} if "levels" in reads else {}
        return nn.ModuleDict(linear)

    def compare(self, student: StudentView, adapters: nn.ModuleDict, reads: frozenset[str]) -> Comparison:
        """Compares both on a batch, the N boxes as one level of N cells; ``reads`` may hold ``levels``."""
        batch, maps = student.batch, student.maps
        known, match = self.teacher.known(maps.logits.device), student.match()
        image, position = _chosen(maps, match, known, self.samples)  # (N,), (N,)
        logits, boxes = maps.logits[image, position], maps.boxes[image, position]  # (N, K), (N, 4)
        index = match[image, position]
        positive = index >= 0
        label = logits.detach().masked_fill(~known, -torch.inf).argmax(1)
        m = batch.labels.shape[1]
        if m:
            label = torch.where(positive, batch.labels[image, index.clamp(min=0)], label)
        positive = positive & known[label]
        clipped = clip_to_sizes(maps.boxes.detach(), batch.sizes)[image, position]
        view = self.teacher.view(batch.images, batch.sizes, clipped, image, label)
        rows = positive.nonzero().squeeze(1)  # (P,)
        at = label[rows, None]
        wanted = batch.boxes[image[rows], index[rows]] if m else boxes[rows]
        everywhere = torch.ones_like(image, dtype=torch.bool)[None]  # (1, N)
        with torch.no_grad():
            lead = (view.logits.sigmoid() - logits.sigmoid())[rows].gather(1, at).mean()
        levels = []
        if "levels" in reads:
            ours = full_precision(adapters["levels"](_features_at(maps, image, position)))  # (N, D)
            theirs, ours = (side.T[None, :, :, None] for side in (view.features, ours))  # (1, D, N, 1)
            wanted_scores, scores = (side.sigmoid()[None, :, None] for side in (view.logits, logits))  # (1, N, 1, K)
            levels.append(LevelPair(theirs, ours, wanted_scores, scores, everywhere))
        return Comparison(
            objects=(batch.labels >= 0) & ~batch.crowd,
            known=known,
            teacher_logits=view.logits[None, :, None],
            student_logits=logits[None, :, None],
            valid=everywhere,
            positives=Positives(
                image[rows] * m + index[rows],
                view.logits[rows].gather(1, at)[:, 0],
                logits[rows].gather(1, at)[:, 0],
                iou_of_pairs(view.boxes[rows], wanted),
                iou_of_pairs(boxes[rows], wanted),
            ),
            positive_count=mean_over_processes(positive.sum().float()[None])[0],
            teacher_lead=lead,
            levels=levels,
        )


def _chosen(maps: DenseMaps, match: Tensor, known: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(N,) images and positions: at most ``count`` an image, positives first, then by the student's best score."""
    with torch.no_grad():
        best = maps.logits.masked_fill(~known, -torch.inf).amax(-1).sigmoid()  # (B, A)
        kept = sample_some(maps.valid, -(best + 2 * (match >= 0)), count)
    image, position = kept.nonzero().unbind(1)
    return image, position


def _features_at(maps: DenseMaps, image: Tensor, position: Tensor) -> Tensor:
    """(N, C) the pyramid's feature in each position's cell."""
    cells = torch.cat([feature.flatten(2) for feature in maps.features], dim=2).transpose(1, 2)  # (B, cells, C)
    return cells[image, torch.div(position, maps.per_cell, rounding_mode="floor")].float()
