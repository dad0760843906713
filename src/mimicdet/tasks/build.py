"""From settings to a task: the only way to put one together."""

from __future__ import annotations

from collections.abc import Sequence

from mimicdet.build import build_model, build_trunk, learning_of
from mimicdet.config import FasterRcnnSettings, MimicDetSettings, Settings
from mimicdet.models.detector import DetectionModel
from mimicdet.models.faster_rcnn import FasterRcnn
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.one_stage import OneStage
from mimicdet.models.pyramid import FinerLevel
from mimicdet.tasks.detect import DetectTask
from mimicdet.tasks.distill import DistillTask
from mimicdet.tasks.faster_rcnn import FasterRcnnTask
from mimicdet.tasks.lessons import make_lessons
from mimicdet.tasks.mimic import MimicTask
from mimicdet.tasks.one_stage import OneStageTask
from mimicdet.tasks.task import Task
from mimicdet.teachers.t_head import THead


def build_task(
    settings: Settings,
    *,
    class_names: Sequence[str],
    pretrained: bool = True,
    detector: DetectionModel | None = None,
) -> Task:
    """The task that settings describe, with its detector and whatever teaches it.

    Args:
        class_names: of the data set; external teachers' classes are matched to them.
        pretrained: load ``settings.model.weights`` into the backbones; False leaves them random (weights come later).
        detector: train this one, which was built already, instead of building it. Its backbone must return features
            from the T-head's finest level on, where the T-head pools from it.

    Raises:
        UserError: backbone weights that cannot be fetched; a teacher that cannot be loaded or does not fit the student.
    """
    if detector is None:
        finest_level = None
        if settings.task == "mimic" and settings.teacher.backbone == "shared":
            finest_level = settings.teacher.levels[0]  # where the T-head pools from
        detector = build_model(settings.model, len(class_names), pretrained=pretrained, finest_level=finest_level)
    if settings.task == "mimic":
        assert isinstance(detector, MimicDet)
        return _mimic_task(settings, detector, pretrained)
    alone = _task_alone(settings, detector)
    if settings.task == "detect":
        return alone
    lessons = make_lessons(settings.distill, detector, settings.model.family, class_names, build_task)
    return DistillTask(student=alone, lessons=lessons, settings=settings.distill)


def _task_alone(settings: Settings, detector: DetectionModel) -> Task:
    if isinstance(settings, MimicDetSettings):
        assert isinstance(detector, MimicDet)
        return DetectTask(detector=detector, assign=settings.assign, loss=settings.loss)
    if not isinstance(settings, FasterRcnnSettings):
        assert isinstance(detector, OneStage)
        return OneStageTask(detector=detector, learning=learning_of(settings))
    assert isinstance(detector, FasterRcnn)
    return FasterRcnnTask(detector=detector)


def _mimic_task(settings: MimicDetSettings, detector: MimicDet, pretrained: bool) -> MimicTask:
    teacher, separate = settings.teacher, settings.teacher.backbone == "separate"
    t_head = THead(
        in_channels=settings.model.pyramid_channels,
        num_classes=detector.num_classes,
        features=settings.model.head_features,
        conv_channels=teacher.conv_channels,
        variant=teacher.variant,
    )
    finest, finer_level, own_trunk = teacher.levels[0], None, None
    if separate:
        own_trunk = build_trunk(settings.model, teacher.levels, finest_level=finest, pretrained=pretrained)
    elif finest < settings.model.levels[0]:
        finer_level = FinerLevel(
            in_channels=detector.trunk.backbone.channels[finest],
            channels=settings.model.pyramid_channels,
            level=finest,
            norm=settings.model.pyramid_norm,
        )
    return MimicTask(
        detector=detector,
        t_head=t_head,
        finer_level=finer_level,
        own_trunk=own_trunk,
        assign=settings.assign,
        mimic=settings.mimic,
        loss=settings.loss,
    )
