"""Distillation: a detector's own losses, and what it takes over from frozen teachers.

B images, M objects (padded), P positives. Several teachers: each loss is the mean over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mimicdet.config import DistillSettings
from mimicdet.data.batch import Batch
from mimicdet.losses.feature_imitation import (
    correlation_loss,
    feature_difference,
    imitation_loss,
    prediction_difference,
    whole_map_loss,
)
from mimicdet.losses.one_stage import overlap_losses
from mimicdet.losses.rank_mimic import rank_divergences, rank_loss
from mimicdet.losses.soft_labels import soft_label_divergences
from mimicdet.models.branches import Hidden, first_part, second_part
from mimicdet.models.dense import DenseMaps
from mimicdet.ops.precision import full_precision
from mimicdet.tasks.assignment import Assignment
from mimicdet.tasks.distill_roi import RoiLesson, roi_losses
from mimicdet.tasks.normalise import WholeStep, mean_over_processes
from mimicdet.tasks.sites import Positives, Sites, common_sites, positives_of
from mimicdet.tasks.step import TaskStep
from mimicdet.teachers.frozen import FrozenTeacher
from mimicdet.teachers.match_maps import TeacherMaps
from mimicdet.teachers.roi import RoiTeacher

LOSSES = ("rank", "imitation", "whole_map", "correlation", "soft_labels", "cross")
"""Names of the losses, which are those of their weights in ``DistillSettings``."""
_OF_FEATURES = ("imitation", "whole_map", "correlation")


class StudentTask(Protocol):
    """A task that trains a detector alone."""

    @property
    def detector(self) -> Any: ...

    def count_positives(self, batch: Batch) -> Tensor: ...

    def step(self, batch: Batch, whole: WholeStep | None = None) -> TaskStep: ...


class Lesson(NamedTuple):
    """A teacher, and how it and the student go together."""

    teacher: FrozenTeacher
    assignment: Assignment | None  # None: the student's rule serves
    same_anchors: bool


class DistillTask(nn.Module):
    """A student's own loss + weighted distillation losses.

    Args:
        student: the task that trains the detector alone; its only parameters are the detector's.
        lessons: the teachers, one-stage and two-stage.
        settings: weights and forms.
    """

    def __init__(
        self, *, student: StudentTask, lessons: Sequence[Lesson | RoiLesson], settings: DistillSettings
    ) -> None:
        super().__init__()
        self.detector = student.detector
        # In tuples, so that neither is registered: the detector is, once, and teachers never are
        self._student = (student,)
        self._lessons = tuple(lessons)
        self.settings = settings
        self.weights = {name: getattr(settings, name) for name in LOSSES if getattr(settings, name)}
        imitates = any(name in self.weights for name in _OF_FEATURES)
        self.adapters = nn.ModuleList(
            _roi_adapters(student.detector, lesson.teacher, imitates)
            if isinstance(lesson, RoiLesson)
            else _adapters(student.detector, lesson.teacher, levels=imitates, head="cross" in self.weights)
            for lesson in lessons
        )

    @property
    def student(self) -> StudentTask:
        return self._student[0]

    @property
    def teachers(self) -> tuple[FrozenTeacher | RoiTeacher, ...]:
        return tuple(lesson.teacher for lesson in self._lessons)

    def count_positives(self, batch: Batch) -> Tensor:
        """0-d float, for ``WholeStep``."""
        return self.student.count_positives(batch)

    def forward(self, batch: Batch, whole: WholeStep | None = None) -> dict[str, Tensor]:
        """``loss`` (weighted sum), its parts unweighted, and diagnostics under ``diag/``; 0-d tensors.

        Args:
            whole: of the step that the batch is a part of; None: the batch is the step. What is taken over from
                teachers is averaged over the batches either way.
        """
        step = self.student.step(batch, whole)
        maps = step.maps()
        lessons = [
            self._learn(batch, step, maps, lesson, adapters)  # type: ignore[arg-type]
            if isinstance(lesson, Lesson)
            else roi_losses(
                batch, step.match(), maps, lesson.teacher, self.settings, self.weights,
                adapters["levels"] if len(adapters) else nn.Identity(),  # type: ignore[arg-type,index]
                lambda positives: self._rank(batch, positives),
            )
            for lesson, adapters in zip(self._lessons, self.adapters, strict=True)
        ]  # fmt: skip
        parts = {name: torch.stack([found[name] for found in lessons]).mean() for name in lessons[0]}
        added = torch.stack([weight * parts[name] for name, weight in self.weights.items()]).sum()
        shown = {name: part.detach() for name, part in parts.items()}
        return step.losses | shown | {"loss": step.losses["loss"] + added}

    def _learn(
        self, batch: Batch, step: TaskStep, maps: DenseMaps, lesson: Lesson, adapters: nn.ModuleDict
    ) -> dict[str, Tensor]:
        """The losses with one teacher, and how far the two agree."""
        teacher = lesson.teacher
        seen = teacher.look(batch.images, batch.sizes)
        theirs = teacher.maps_for(maps, seen)
        known = teacher.known(maps.logits.device)
        assigned = step.match() if lesson.assignment is None else lesson.assignment(batch, theirs)
        sites = common_sites(maps, theirs, assigned, same_anchors=lesson.same_anchors)
        positives = positives_of(sites, batch.boxes, batch.labels, known)
        found: dict[str, Tensor] = {}
        if "rank" in self.weights:
            found["rank"] = self._rank(batch, positives)
        if "soft_labels" in self.weights:
            found["soft_labels"] = self._soft_labels(sites, known)
        if any(name in self.weights for name in _OF_FEATURES):
            found |= self._features(
                maps, theirs, sites, known, adapters, each=maps.per_cell if lesson.same_anchors else 1
            )
        if "cross" in self.weights:
            found["cross"] = self._cross(batch, maps, seen[0], teacher, sites, adapters)
        with torch.no_grad():
            count = positives.group.numel()
            gap = (positives.teacher_logits.sigmoid() - positives.student_logits.sigmoid()).sum() / max(count, 1)
            found["diag/teacher_score_lead"] = gap if count else gap * torch.nan
        return found

    def _rank(self, batch: Batch, positives: Positives) -> Tensor:
        settings, groups = self.settings, batch.labels.numel()
        objects = (batch.labels >= 0) & ~batch.crowd

        def loss(teacher: Tensor, student: Tensor) -> Tensor:
            divergences = rank_divergences(
                teacher, student, positives.group, groups, temperature=settings.rank_temperature
            )
            return rank_loss(divergences, objects) if groups else student.sum()

        total = positives.student_logits.new_zeros(())
        if settings.rank_which != "localisation":
            scores = (positives.teacher_logits, positives.student_logits)
            total = total + loss(*(s.sigmoid() if settings.rank_score == "sigmoid" else s for s in scores))
        if settings.rank_which != "classification":
            total = total + loss(positives.teacher_iou, positives.student_iou)
        return total

    def _soft_labels(self, sites: Sites, known: Tensor) -> Tensor:
        """Sum over sites and classes by the number of positives."""
        teacher, student = (side.logits.amax(2) for side in (sites.teacher, sites.student))
        losses = soft_label_divergences(teacher, student, temperature=self.settings.soft_temperature)
        losses = losses.where(known & sites.valid[..., None], 0)
        return losses.sum() / _count(sites)

    def _features(
        self, maps: DenseMaps, theirs: dict[int, TeacherMaps], sites: Sites, known: Tensor, adapters: nn.ModuleDict,
        *, each: int,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Losses of feature maps, mean over the levels; ``each`` sites make up a cell."""
        settings = self.settings
        per_level: dict[str, list[Tensor]] = {name: [] for name in _OF_FEATURES if name in self.weights}
        start = 0
        for number, feature in zip(maps.level_numbers, maps.features, strict=True):
            if number not in theirs:
                continue
            cells = feature.shape[2] * feature.shape[3]
            rows = slice(start, start := start + cells * each)
            valid = sites.valid[:, rows].unflatten(1, (cells, each)).any(2)
            wanted, adapted = theirs[number].feature, full_precision(adapters["levels"](feature.float()))
            difference = feature_difference(wanted, adapted)
            if "imitation" in per_level:
                scores = (
                    side.logits[:, rows].amax(2).sigmoid().unflatten(1, (cells, each))
                    for side in (sites.teacher, sites.student)
                )
                prediction = prediction_difference(*scores, known=known)
                loss = imitation_loss(
                    prediction, difference, valid, form=settings.imitation_form, detach=settings.imitation_detach,
                    normalise=settings.imitation_normalise,
                )  # fmt: skip
                per_level["imitation"].append(loss)
            if "whole_map" in per_level:
                per_level["whole_map"].append(whole_map_loss(difference, valid))
            if "correlation" in per_level:
                per_level["correlation"].append(correlation_loss(wanted, adapted, valid))
        return {name: torch.stack(values).mean() for name, values in per_level.items()}

    def _cross(
        self, batch: Batch, maps: DenseMaps, seen: DenseMaps, teacher: FrozenTeacher, sites: Sites,
        adapters: nn.ModuleDict,
    ) -> Tensor:  # fmt: skip
        """CrossKD: what the teacher's head makes of the student's hidden features, against what it makes of its own."""
        depth = self.settings.cross_depth
        hidden = first_part(self.detector.head.branches(), maps.features, depth)
        hidden = Hidden(
            [adapters["class_branch"](feature.float()) for feature in hidden.class_features],
            [adapters["box_branch"](feature.float()) for feature in hidden.box_features],
        )
        logits, outputs = second_part(teacher.network.head.branches(), hidden, depth)
        losses = soft_label_divergences(seen.logits, logits.float(), temperature=self.settings.soft_temperature)
        classes = losses.where(seen.valid[..., None], 0).sum() / _count(sites)
        places = teacher.places(maps, (batch.images.shape[2], batch.images.shape[3]))
        boxes = teacher.network.decode_boxes(outputs.float(), places.anchors, places.stride)
        # Boxes count where the teacher sees something; those without an area overlap nothing, themselves neither
        has_area = (seen.boxes[..., 2:] > seen.boxes[..., :2]).all(-1)
        weight = seen.logits.sigmoid().amax(-1) * (seen.valid & has_area)
        overlaps = (overlap_losses(boxes, seen.boxes) * weight).sum() / mean_over_processes(weight.sum()[None])[0]
        return classes + overlaps


def _count(sites: Sites) -> Tensor:
    """Positive sites, over all processes."""
    return mean_over_processes(((sites.match >= 0) & sites.valid).sum().float()[None])[0]


def _adapters(detector: nn.Module, teacher: FrozenTeacher, *, levels: bool, head: bool) -> nn.ModuleDict:
    """1x1 convolutions from the student's width to the teacher's, where features are compared and widths differ."""
    own: int = detector.pyramid.channels  # type: ignore[union-attr,assignment]
    names = (["levels"] if levels else []) + (["class_branch", "box_branch"] if head else [])
    if own == teacher.channels:
        return nn.ModuleDict({name: nn.Identity() for name in names})
    return nn.ModuleDict({name: nn.Conv2d(own, teacher.channels, 1) for name in names})


def _roi_adapters(detector: Any, teacher: RoiTeacher, wanted: bool) -> nn.ModuleDict:
    """A linear layer from the student's pyramid to the teacher's features of a box."""
    return nn.ModuleDict({"levels": nn.Linear(detector.pyramid.channels, teacher.num_features)} if wanted else {})
