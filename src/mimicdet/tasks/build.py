"""From settings to a task."""

from __future__ import annotations

from collections.abc import Sequence

from mimicdet.config import Settings
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.one_stage import OneStage
from mimicdet.models.two_stage import TwoStage
from mimicdet.tasks.build_mimic import build_mimic_task
from mimicdet.tasks.detect import DetectTask
from mimicdet.tasks.distill import DistillTask
from mimicdet.tasks.lessons import make_lessons
from mimicdet.tasks.mimic import MimicTask
from mimicdet.tasks.one_stage import OneStageTask
from mimicdet.tasks.recipes import recipe_of
from mimicdet.tasks.two_stage import TwoStageTask

Task = DetectTask | MimicTask | OneStageTask | TwoStageTask | DistillTask


def build_task(
    settings: Settings,
    detector: MimicDet | OneStage | TwoStage,
    *,
    pretrained: bool = True,
    class_names: Sequence[str] = (),
) -> Task:
    """The task that ``settings.task`` names, around a built detector.

    Args:
        detector: made with ``build_model(..., finest_level=finest_backbone_level(settings))``.
        pretrained: load ``settings.model.weights`` into a backbone of the T-head's own, if it has one.
        class_names: of the data set, which external teachers' classes are matched to.

    Raises:
        UserError: a teacher that cannot be loaded or does not go with the student.
    """
    if isinstance(detector, TwoStage):
        return TwoStageTask(detector=detector)
    if isinstance(detector, OneStage):
        recipe, names = recipe_of(settings.model.family, settings.one_stage)
        weights = {name: getattr(settings.one_stage, name) for name in names}
        alone: DetectTask | OneStageTask = OneStageTask(detector=detector, recipe=recipe, weights=weights)
    else:
        alone = DetectTask(detector=detector, assign=settings.assign, loss=settings.loss)
    if settings.task == "detect":
        return alone
    if settings.task == "distill":
        lessons = make_lessons(settings.distill, detector, settings.model.family, class_names)
        return DistillTask(student=alone, lessons=lessons, settings=settings.distill)
    assert isinstance(detector, MimicDet)
    return build_mimic_task(settings, detector, pretrained=pretrained)
