"""From settings to modules: the only place where the two meet."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import torch
from pydantic import ValidationError

from mimicdet.config import Family, InferenceSettings, ModelSettings
from mimicdet.data.dataset import Category
from mimicdet.errors import UserError
from mimicdet.models.atss import atss
from mimicdet.models.backbone import Backbone, build_backbone
from mimicdet.models.branches import Branches
from mimicdet.models.fcos import fcos
from mimicdet.models.gfl import gfl
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.one_stage import OneStage
from mimicdet.models.pyramid import COARSEST_BACKBONE_LEVEL, Pyramid, he_init
from mimicdet.models.refinement import Refinement
from mimicdet.models.retinanet import retinanet
from mimicdet.models.s_head import SHead
from mimicdet.models.two_stage import TwoStage, faster_rcnn
from mimicdet.weights.folder import DESCRIPTION_FILE, load_weights, read_description
from mimicdet.weights.state_dict import SUFFIXES
from mimicdet.weights.torchvision import read_torchvision

Detector = MimicDet | OneStage | TwoStage
"""What can be built, trained alone and shipped."""

_ONE_STAGE = {"retinanet": retinanet, "fcos": fcos, "atss": atss, "gfl": gfl}


def build_model(
    settings: ModelSettings, num_classes: int, *, pretrained: bool = True, finest_level: int | None = None
) -> Detector:
    """A detector of the family that ``settings.family`` names.

    Args:
        settings: the ``model`` section.
        num_classes: K, without the background.
        pretrained: load ``settings.weights`` into the backbone; False leaves it random (its weights come later).
        finest_level: have the backbone return features from this level on (the T-head reads P2); None: what the
            pyramid needs. The detector's parameters are the same either way.

    Raises:
        UserError: as :func:`mimicdet.models.backbone.build_backbone`.
    """
    finest = settings.levels[0] if finest_level is None else min(finest_level, settings.levels[0])
    backbone, pyramid = build_trunk(settings, settings.levels, finest_level=finest, pretrained=pretrained)
    if settings.family == "faster_rcnn":
        return faster_rcnn(backbone=backbone, pyramid=pyramid, num_classes=num_classes, features=settings.head_features)
    if settings.family != "mimicdet":
        make = _ONE_STAGE[settings.family]
        detector = make(backbone=backbone, pyramid=pyramid, num_classes=num_classes, groups=settings.head_groups)
        if settings.head_init == "he":
            branches: Branches = detector.head.branches()  # type: ignore[operator]
            for convs in (branches.class_convs, branches.box_convs):
                he_init(convs)
        return detector
    return MimicDet(
        backbone=backbone,
        pyramid=pyramid,
        refinement=Refinement(channels=settings.pyramid_channels),
        s_head=SHead(
            in_channels=settings.pyramid_channels,
            num_classes=num_classes,
            channels=settings.head_channels,
            features=settings.head_features,
            alignment=settings.alignment,
            offsets=settings.offsets,
            kernel_size=settings.kernel_size,
            finest_kernel_size=settings.finest_kernel_size,
            offset_grad=settings.offset_grad,
            paths=settings.head_paths,
            init=settings.head_init,
        ),
    )


def build_trunk(
    settings: ModelSettings, levels: Sequence[int], *, finest_level: int, pretrained: bool
) -> tuple[Backbone, Pyramid]:
    """A backbone that returns features from ``finest_level`` on, and a pyramid of ``levels`` over it."""
    backbone = build_backbone(
        settings.backbone,
        levels=range(finest_level, COARSEST_BACKBONE_LEVEL + 1),
        weights=settings.weights if pretrained else "random",
        frozen_stages=settings.frozen_stages,
        freeze_batch_norm=settings.freeze_batch_norm,
    )
    pyramid = Pyramid(
        in_channels=backbone.channels,
        levels=levels,
        channels=settings.pyramid_channels,
        norm=settings.pyramid_norm,
        top=settings.pyramid_top,
    )
    return backbone, pyramid


@dataclass(frozen=True)
class LoadedModel:
    """A detector from a model folder, in evaluation mode, with what prediction needs besides."""

    model: Detector
    settings: ModelSettings
    inference: InferenceSettings
    categories: tuple[Category, ...]


def load_model(folder: str | Path, device: torch.device | str = "cpu") -> LoadedModel:
    """Reads a folder that :func:`mimicdet.weights.folder.save_model` wrote, or torchvision's weights.

    Raises:
        UserError: no model folder, or one that is broken, of another family or of a newer version; a file that holds
            no detector (see ``mimicdet.weights.torchvision``).
    """
    if Path(folder).suffix in SUFFIXES and Path(folder).is_file():
        return _from_torchvision(Path(folder), device)
    description = read_description(folder)
    if description.family not in get_args(Family):
        raise UserError(
            f"{Path(folder) / DESCRIPTION_FILE}: models of the family {description.family!r} are not known here; "
            f"update mimicdet"
        )
    try:
        settings = ModelSettings.model_validate_json(json.dumps(dict(description.model)))
        inference = InferenceSettings.model_validate_json(json.dumps(dict(description.inference)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{Path(folder) / DESCRIPTION_FILE}: setting {where!r} is not understood ({first['msg']}); "
            f"it was written by another version of mimicdet"
        ) from error
    if settings.family != description.family:
        raise UserError(
            f"{Path(folder) / DESCRIPTION_FILE} says family '{description.family}' and describes a model of "
            f"'{settings.family}'; restore the folder as it was saved"
        )
    model = build_model(settings, len(description.categories), pretrained=False)
    load_weights(folder, model)
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    return LoadedModel(model, settings, inference, description.categories)


def _from_torchvision(file: Path, device: torch.device | str) -> LoadedModel:
    found = read_torchvision(file)
    settings, inference = ModelSettings(**found.model), InferenceSettings(**found.inference)
    model = build_model(settings, len(found.categories), pretrained=False)
    pixels = {key: value for key, value in model.state_dict().items() if key in ("backbone.mean", "backbone.std")}
    try:
        model.load_state_dict(found.state | pixels)
    except RuntimeError as error:  # lists every entry that differs, over many lines
        first = str(error).splitlines()[1].strip()
        raise UserError(f"{file} is no {settings.family} on ResNet-50 as torchvision makes it: {first}") from error
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    return LoadedModel(model, settings, inference, found.categories)
