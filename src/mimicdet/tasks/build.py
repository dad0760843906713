"""From settings to a task."""

from __future__ import annotations

from mimicdet.config import Settings
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.pyramid import FinerLevel
from mimicdet.tasks.detect import DetectTask
from mimicdet.tasks.mimic import MimicTask
from mimicdet.teachers.t_head import THead


def build_task(settings: Settings, detector: MimicDet) -> DetectTask | MimicTask:
    """The task that ``settings.task`` names, around a built detector.

    The detector's backbone must return the features that the T-head's finest level needs:
    ``build_model(..., finest_level=settings.teacher.levels[0])``.
    """
    if settings.task == "detect":
        return DetectTask(detector=detector, assign=settings.assign, loss=settings.loss)
    finer_level = None
    finest = settings.teacher.levels[0]
    if finest < settings.model.levels[0]:
        finer_level = FinerLevel(
            in_channels=detector.backbone.channels[finest],
            channels=settings.model.pyramid_channels,
            level=finest,
            norm=settings.model.pyramid_norm,
        )
    t_head = THead(
        in_channels=settings.model.pyramid_channels,
        num_classes=detector.num_classes,
        features=settings.model.head_features,
        conv_channels=settings.teacher.conv_channels,
        variant=settings.teacher.variant,
    )
    return MimicTask(
        detector=detector,
        t_head=t_head,
        finer_level=finer_level,
        assign=settings.assign,
        mimic=settings.mimic,
        loss=settings.loss,
    )
