"""Distils: a detector's own losses, and what it takes over from frozen teachers, each loss the mean over them."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mimicdet.config import DistillSettings
from mimicdet.data.batch import Batch
from mimicdet.losses.comparison import Comparison
from mimicdet.losses.feature_imitation import correlation, imitation, whole_map
from mimicdet.losses.rank_mimic import rank_mimicking
from mimicdet.losses.soft_labels import cross_heads, soft_labels
from mimicdet.tasks.dense_lesson import DenseLesson
from mimicdet.tasks.roi_lesson import RoiLesson
from mimicdet.tasks.task import StudentView, Task, TaskStep, WholeStep


class DistillLoss(NamedTuple):
    """Says how a loss is computed, and what of a comparison it reads that costs something."""

    compute: Callable[[Comparison, DistillSettings], Tensor]
    reads: frozenset[str] = frozenset()  # "levels", "heads"


_LEVELS, _HEADS = frozenset({"levels"}), frozenset({"heads"})
LOSSES = {
    "rank": DistillLoss(lambda c, s: rank_mimicking(c, which=s.rank_which, score=s.rank_score, temperature=1.0)),
    "imitation": DistillLoss(lambda c, _: imitation(c), _LEVELS),
    "whole_map": DistillLoss(lambda c, _: whole_map(c), _LEVELS),
    "correlation": DistillLoss(lambda c, _: correlation(c), _LEVELS),
    "soft_labels": DistillLoss(lambda c, _: soft_labels(c, temperature=1.0)),
    "cross": DistillLoss(lambda c, _: cross_heads(c, temperature=1.0), _HEADS),
}
"""By the name of the loss's weight in ``DistillSettings``."""


class DistillTask(Task):
    """Trains a student: its own loss + weighted distillation losses.

    Args:
        student: the task that trains the detector alone; its only parameters are the detector's.
        lessons: the teachers, one-stage and two-stage.
    """

    def __init__(self, *, student: Task, lessons: Sequence[DenseLesson | RoiLesson], settings: DistillSettings) -> None:
        super().__init__(detector=student.detector)
        # In tuples, so that neither is registered: the detector is, once, and teachers never are
        self._student = (student,)
        self._lessons = tuple(lessons)
        self.settings = settings
        given = settings.model_dump()
        self.weights = {name: given[name] for name in LOSSES if given[name]}
        self.reads: frozenset[str] = frozenset().union(*(LOSSES[name].reads for name in self.weights))
        self.adapters = nn.ModuleList(lesson.adapters(student.detector, self.reads) for lesson in lessons)
        self.teachers = tuple(lesson.teacher for lesson in lessons)

    @property
    def student(self) -> Task:
        """Returns the task that trains the detector alone."""
        return self._student[0]

    def count_positives(self, batch: Batch) -> Tensor:
        return self.student.count_positives(batch)

    def step(self, batch: Batch, whole: WholeStep | None = None) -> TaskStep:
        """See ``Task.step``; what is taken over from teachers is averaged over a step's batches."""
        step = self.student.step(batch, whole)
        view, found = StudentView(self.detector, batch, step.match, step.maps()), []
        for lesson, adapters in zip(self._lessons, self.adapters, strict=True):
            assert isinstance(adapters, nn.ModuleDict)
            comparison = lesson.compare(view, adapters, self.reads)
            parts = {name: LOSSES[name].compute(comparison, self.settings) for name in self.weights}
            found.append(parts | {"diag/teacher_score_lead": comparison.teacher_lead})
        parts = {name: torch.stack([one[name] for one in found]).mean() for name in found[0]}
        added = torch.stack([weight * parts[name] for name, weight in self.weights.items()]).sum()
        shown = {name: part.detach() for name, part in parts.items()}
        losses = step.losses | shown | {"loss": step.losses["loss"] + added}
        return TaskStep(losses, step.match, step.maps)
