"""Lessons of a dense teacher: what both predict everywhere is compared at common sites.

B images, K classes, n anchors of a cell.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mimicdet.data.batch import Batch
from mimicdet.losses.comparison import Comparison, CrossedHeads, LevelPair, Positives
from mimicdet.models.detector import DenseMaps, DetectionModel
from mimicdet.models.one_stage import Hidden, OneStage, first_part, second_part
from mimicdet.ops.precision import full_precision
from mimicdet.tasks.sites import Assignment, Sites, common_sites, positives_of
from mimicdet.tasks.task import TaskStep, mean_over_processes
from mimicdet.teachers.dense import DenseTeacher
from mimicdet.teachers.match_maps import TeacherMaps


class DenseLesson(NamedTuple):
    """Says how a dense teacher and the student go together."""

    teacher: DenseTeacher
    assignment: Assignment | None  # None: the student's rule serves
    same_anchors: bool

    def adapters(self, student: DetectionModel, reads: AbstractSet[str]) -> nn.ModuleDict:
        """1x1 convolutions from the student's width to the teacher's, where features are compared and widths differ."""
        own, theirs = student.trunk.channels, self.teacher.channels
        names = ["levels"] * ("levels" in reads) + ["class_branch", "box_branch"] * ("heads" in reads)
        return nn.ModuleDict({name: nn.Identity() if own == theirs else nn.Conv2d(own, theirs, 1) for name in names})

    def compare(
        self,
        student: DetectionModel,
        batch: Batch,
        step: TaskStep,
        maps: DenseMaps,
        adapters: nn.ModuleDict,
        reads: AbstractSet[str],
    ) -> Comparison:
        """Both on a batch; ``reads`` says which parts losses want (``levels``, ``heads``)."""
        seen = self.teacher.dense_maps(batch.images, batch.sizes)
        theirs = self.teacher.maps_for(maps, seen)
        known = self.teacher.known(maps.logits.device)
        assigned = step.match() if self.assignment is None else self.assignment(batch, theirs)
        sites = common_sites(maps, theirs, assigned, same_anchors=self.same_anchors)
        positives = positives_of(sites, batch.boxes, batch.labels, known)
        each = maps.per_cell if self.same_anchors else 1
        return Comparison(
            objects=(batch.labels >= 0) & ~batch.crowd,
            known=known,
            teacher_logits=sites.teacher.logits,
            student_logits=sites.student.logits,
            valid=sites.valid,
            positives=positives,
            positive_count=_count((sites.match >= 0) & sites.valid),
            teacher_lead=_lead(positives),
            levels=_level_pairs(maps, theirs, sites, adapters["levels"], each) if "levels" in reads else (),
            crossed=partial(self._crossed, student, batch, maps, seen.maps, adapters) if "heads" in reads else None,
        )

    def _crossed(
        self, student: DetectionModel, batch: Batch, maps: DenseMaps, seen: DenseMaps, adapters: nn.ModuleDict
    ) -> CrossedHeads:
        own, theirs = student, self.teacher.network
        assert isinstance(own, OneStage)
        assert isinstance(theirs, OneStage)
        hidden = first_part(own.head.branches(), maps.features)
        hidden = Hidden(
            [adapters["class_branch"](feature.float()) for feature in hidden.class_features],
            [adapters["box_branch"](feature.float()) for feature in hidden.box_features],
        )
        logits, outputs = second_part(theirs.head.branches(), hidden)
        shapes = [(f.shape[2], f.shape[3]) for f in maps.features]
        places = theirs.anchors(shapes, (batch.images.shape[2], batch.images.shape[3]))
        # Boxes count where the teacher sees something; those without an area overlap nothing, themselves neither
        has_area = (seen.boxes[..., 2:] > seen.boxes[..., :2]).all(-1)  # (B, A)
        weight = seen.logits.sigmoid().amax(-1) * (seen.valid & has_area)
        return CrossedHeads(
            own_logits=seen.logits,
            own_boxes=seen.boxes,
            logits=logits,
            boxes=theirs.decode_boxes(outputs.float(), places.anchors, places.stride),
            valid=seen.valid,
            box_weight=weight,
            weight_sum=_count(weight),
        )


def _level_pairs(
    maps: DenseMaps, theirs: dict[int, TeacherMaps], sites: Sites, adapter: nn.Module, each: int
) -> list[LevelPair]:
    """The levels that both have; ``each`` sites make up a cell."""
    pairs, start = [], 0
    for number, feature in zip(maps.level_numbers, maps.features, strict=True):
        if number not in theirs:
            continue
        cells = feature.shape[2] * feature.shape[3]
        rows = slice(start, start := start + cells * each)
        valid = sites.valid[:, rows].unflatten(1, (cells, each)).any(2)  # (B, cells)
        teacher_scores, student_scores = (
            side.logits[:, rows].amax(2).sigmoid().unflatten(1, (cells, each))  # (B, cells, each, K)
            for side in (sites.teacher, sites.student)
        )
        adapted = full_precision(adapter(feature.float()))
        pairs.append(LevelPair(theirs[number].feature, adapted, teacher_scores, student_scores, valid))
    return pairs


def _count(values: Tensor) -> Tensor:
    """The sum of ``values`` over all processes, per process; at least 1 over all of them."""
    return mean_over_processes(values.sum().float()[None])[0]


@torch.no_grad()
def _lead(positives: Positives) -> Tensor:
    count = positives.group.numel()
    gap = (positives.teacher_logits.sigmoid() - positives.student_logits.sigmoid()).sum() / max(count, 1)
    return gap if count else gap * torch.nan
