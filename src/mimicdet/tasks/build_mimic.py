"""From settings to the mimic task, the one task that a teacher can be read from."""

from __future__ import annotations

from mimicdet.build import build_trunk
from mimicdet.config import Settings
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.pyramid import FinerLevel
from mimicdet.tasks.mimic import MimicTask
from mimicdet.teachers.own_features import OwnFeatures
from mimicdet.teachers.t_head import THead


def finest_backbone_level(settings: Settings) -> int | None:
    """Level from which on the detector's backbone must return features for the task: for ``build_model``."""
    pools = settings.task == "mimic" and settings.teacher.backbone == "shared"
    return settings.teacher.levels[0] if pools else None


def build_mimic_task(settings: Settings, detector: MimicDet, *, pretrained: bool = True) -> MimicTask:
    """The mimic task around a built detector.

    Args:
        detector: made with ``build_model(..., finest_level=finest_backbone_level(settings))``.
        pretrained: load ``settings.model.weights`` into a backbone of the T-head's own, if it has one.
    """
    separate = settings.teacher.backbone == "separate"
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
        finer_level=None if separate else _finer_level(settings, detector),
        own_features=_own_features(settings, pretrained) if separate else None,
        assign=settings.assign,
        mimic=settings.mimic,
        loss=settings.loss,
    )


def _finer_level(settings: Settings, detector: MimicDet) -> FinerLevel | None:
    finest = settings.teacher.levels[0]
    if finest >= settings.model.levels[0]:
        return None
    return FinerLevel(
        in_channels=detector.backbone.channels[finest],
        channels=settings.model.pyramid_channels,
        level=finest,
        norm=settings.model.pyramid_norm,
    )


def _own_features(settings: Settings, pretrained: bool) -> OwnFeatures:
    levels = settings.teacher.levels
    backbone, pyramid = build_trunk(settings.model, levels, finest_level=levels[0], pretrained=pretrained)
    return OwnFeatures(backbone=backbone, pyramid=pyramid)
