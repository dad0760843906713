"""Compares student and dense teacher: what both predict everywhere, at sites that the two have in common.

B images, S sites over all levels that both have, n boxes at a site, K classes, M objects (padded), P positives.
A site is an anchor where both have the same anchors, else a cell, for which the best of its anchors speaks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mimicdet.assign import Match, match_objects, match_overlapping
from mimicdet.data.batch import Batch
from mimicdet.losses.comparison import Comparison, CrossedHeads, LevelPair, Positives
from mimicdet.models.anchors import Anchors
from mimicdet.models.detector import DenseMaps, DetectionModel, level_shapes
from mimicdet.models.one_stage import Hidden, OneStage, first_part, second_part
from mimicdet.ops.boxes import iou_of_pairs
from mimicdet.ops.precision import full_precision
from mimicdet.tasks.task import StudentView, mean_over_processes
from mimicdet.teachers.dense import DenseTeacher, TeacherMaps, by_level, split_levels

Assignment = Callable[[Batch, dict[int, TeacherMaps]], dict[int, Tensor]]
"""Batch, the teacher's maps by level number -> (B, cells, n) by level number, index of the object of each position,
below 0 for none."""


@dataclass(frozen=True)
class TeacherAssignment:
    """Assigns by a family's static rule, which knows places and objects alone, on levels of the student's canvas."""

    rule: Match
    anchors: Anchors  # the teacher's, on its ``level_numbers``
    level_numbers: tuple[int, ...]

    def __call__(self, batch: Batch, maps: dict[int, TeacherMaps]) -> dict[int, Tensor]:
        """See ``Assignment``; ``maps`` plays no part."""
        height, width = batch.images.shape[2:]
        shapes = level_shapes(height, width, self.level_numbers)
        places = self.anchors(shapes, (height, width))
        objects = (batch.boxes, batch.labels, batch.crowd)
        match = match_objects(self.rule, places, places.valid(batch.sizes), *objects)  # (B, A)
        each = match.unflatten(1, (-1, self.anchors.per_cell)).split([h * w for h, w in shapes], dim=1)
        return dict(zip(self.level_numbers, each, strict=True))


@dataclass(frozen=True)
class OverlapAssignment:
    """Assigns by MimicDet's rule, which depends on its boxes: to a position the object that its box overlaps best.

    Its S-head learns by this rule (section 3.3). The refinement module's, by the places' centres, leaves one position
    to most objects, and one has no order that Rank Mimicking could take over.
    """

    positive_iou: float  # least overlap

    def __call__(self, batch: Batch, maps: dict[int, TeacherMaps]) -> dict[int, Tensor]:
        """See ``Assignment``."""
        found, objects = {}, (batch.boxes, batch.labels, batch.crowd)
        for number, level in maps.items():
            boxes = level.boxes.flatten(1, 2)  # padding needs no exclusion here: sites leave it out
            everywhere = boxes.new_ones(boxes.shape[:2]).bool()
            match = match_overlapping(boxes, everywhere, *objects, positive_iou=self.positive_iou)
            found[number] = match.unflatten(1, level.boxes.shape[1:3])
        return found


class _Sites(NamedTuple):
    """What both say at the sites, and what is assigned to these."""

    student_logits: Tensor  # (B, S, n, K)
    student_boxes: Tensor  # (B, S, n, 4)
    teacher_logits: Tensor  # (B, S, n, K)
    teacher_boxes: Tensor  # (B, S, n, 4)
    valid: Tensor  # (B, S) bool, False on padding
    match: Tensor  # (B, S) int64, index of the object, below 0 for none


class DenseLesson(NamedTuple):
    """Says how a dense teacher and the student go together."""

    teacher: DenseTeacher
    assignment: Assignment | None  # None: the student's rule serves
    same_anchors: bool  # anchor i of a cell means the same to both

    def adapters(self, student: DetectionModel, reads: frozenset[str]) -> nn.ModuleDict:
        """Makes 1x1 convolutions from the student's width to the teacher's, where features are compared; they learn."""
        own, theirs = student.trunk.channels, self.teacher.channels
        names = ["levels"] * ("levels" in reads) + ["class_branch", "box_branch"] * ("heads" in reads)
        return nn.ModuleDict({name: nn.Identity() if own == theirs else nn.Conv2d(own, theirs, 1) for name in names})

    def compare(self, student: StudentView, adapters: nn.ModuleDict, reads: frozenset[str]) -> Comparison:
        """Compares both on a batch; ``reads`` says which parts losses want (``levels``, ``heads``)."""
        batch, maps = student.batch, student.maps
        seen = self.teacher.dense_maps(batch.images, batch.sizes)
        theirs = self.teacher.maps_for(maps, seen)
        known = self.teacher.known(maps.logits.device)
        sites = self._common_sites(student, theirs)
        positives = _positives(sites, batch, known)
        return Comparison(
            objects=(batch.labels >= 0) & ~batch.crowd,
            known=known,
            teacher_logits=sites.teacher_logits,
            student_logits=sites.student_logits,
            valid=sites.valid,
            positives=positives,
            positive_count=_count((sites.match >= 0) & sites.valid),
            teacher_lead=_lead(positives),
            levels=self._level_pairs(maps, theirs, sites, adapters["levels"]) if "levels" in reads else (),
            crossed=partial(self._crossed, student, seen.maps, adapters) if "heads" in reads else None,
        )

    def _common_sites(self, student: StudentView, theirs: dict[int, TeacherMaps]) -> _Sites:
        maps, assignment = student.maps, self.assignment
        matches = by_level(student.match(), maps) if assignment is None else assignment(student.batch, theirs)
        valid = by_level(maps.valid, maps)
        parts: list[tuple[Tensor, ...]] = []
        for number, own in split_levels(maps).items():
            if number not in theirs:
                continue
            values = [values for side in (own, theirs[number]) for values in (side.logits, side.boxes)]
            if self.same_anchors:
                anchors = (part.flatten(1, 2)[:, :, None] for part in values)
                parts.append((*anchors, valid[number].flatten(1), matches[number].flatten(1)))
            else:  # of several anchors of a cell that are assigned, the object with the highest index stands for all
                parts.append((*values, valid[number].any(2), matches[number].amax(2)))
        return _Sites(*(torch.cat(column, dim=1) for column in zip(*parts, strict=True)))

    def _level_pairs(
        self, maps: DenseMaps, theirs: dict[int, TeacherMaps], sites: _Sites, adapter: nn.Module
    ) -> list[LevelPair]:
        each = maps.per_cell if self.same_anchors else 1  # sites of a cell
        pairs, start = [], 0
        for number, feature in zip(maps.level_numbers, maps.features, strict=True):
            if number not in theirs:
                continue
            cells = feature.shape[2] * feature.shape[3]
            rows = slice(start, start := start + cells * each)
            valid = sites.valid[:, rows].unflatten(1, (cells, each)).any(2)  # (B, cells)
            teacher_scores, student_scores = (
                logits[:, rows].amax(2).sigmoid().unflatten(1, (cells, each))  # (B, cells, each, K)
                for logits in (sites.teacher_logits, sites.student_logits)
            )
            adapted = full_precision(adapter(feature.float()))
            pairs.append(LevelPair(theirs[number].feature, adapted, teacher_scores, student_scores, valid))
        return pairs

    def _crossed(self, student: StudentView, seen: DenseMaps, adapters: nn.ModuleDict) -> CrossedHeads:
        own, theirs, features = student.detector, self.teacher.network, student.maps.features
        assert isinstance(own, OneStage)
        assert isinstance(theirs, OneStage)
        hidden = first_part(own.head.branches(), features)
        hidden = Hidden(
            [adapters["class_branch"](feature.float()) for feature in hidden.class_features],
            [adapters["box_branch"](feature.float()) for feature in hidden.box_features],
        )
        logits, outputs = second_part(theirs.head.branches(), hidden)
        height, width = student.batch.images.shape[2:]
        places = theirs.anchors([(f.shape[2], f.shape[3]) for f in features], (height, width))
        boxes = theirs.decode_boxes(outputs.float(), places.anchors, places.stride)
        # Boxes count where the teacher sees something; those without an area overlap nothing, themselves neither
        has_area = (seen.boxes[..., 2:] > seen.boxes[..., :2]).all(-1)  # (B, A)
        weight = seen.logits.sigmoid().amax(-1) * (seen.valid & has_area)
        return CrossedHeads(seen.logits, seen.boxes, logits, boxes, seen.valid, weight, _count(weight))


def _positives(sites: _Sites, batch: Batch, known: Tensor) -> Positives:
    """The sites of objects whose class the teacher knows; ``known`` (K,) bool."""
    boxes, labels, m = batch.boxes, batch.labels, batch.labels.shape[1]
    image, site = ((sites.match >= 0) & sites.valid).nonzero().unbind(1)
    index = sites.match[image, site]
    if m == 0:  # then there are no positives either
        labels, boxes = labels.new_zeros(len(labels), 1), boxes.new_zeros(len(boxes), 1, 4)
    label = labels[image, index]
    kept = known[label]
    image, site, index, label = image[kept], site[kept], index[kept], label[kept]
    wanted = boxes[image, index][:, None]
    sides, found = ((sites.teacher_logits, sites.teacher_boxes), (sites.student_logits, sites.student_boxes)), []
    for all_logits, all_boxes in sides:
        logits = all_logits[image, site].gather(2, label[:, None, None].expand(-1, all_logits.shape[2], 1))
        overlap = iou_of_pairs(all_boxes[image, site], wanted.expand(-1, all_boxes.shape[2], 4))
        found += [logits.squeeze(2).amax(1), overlap.amax(1)]
    return Positives(image * m + index, found[0], found[2], found[1], found[3])


def _count(values: Tensor) -> Tensor:
    """The sum of ``values`` over all processes, per process; at least 1 over all of them."""
    return mean_over_processes(values.sum().float()[None])[0]


@torch.no_grad()
def _lead(positives: Positives) -> Tensor:
    count = positives.group.numel()
    gap = (positives.teacher_logits.sigmoid() - positives.student_logits.sigmoid()).sum() / max(count, 1)
    return gap if count else gap * torch.nan
