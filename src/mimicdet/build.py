"""From settings to modules: the only place where the two meet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from mimicdet.config import InferenceSettings, ModelSettings
from mimicdet.data.dataset import Category
from mimicdet.errors import UserError
from mimicdet.models.backbone import build_backbone
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.pretrained_folder import DESCRIPTION_FILE, FAMILY, load_weights, read_description
from mimicdet.models.pyramid import COARSEST_BACKBONE_LEVEL, Pyramid
from mimicdet.models.refinement import Refinement
from mimicdet.models.s_head import SHead


def build_model(
    settings: ModelSettings, num_classes: int, *, pretrained: bool = True, finest_level: int | None = None
) -> MimicDet:
    """A detector.

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
    backbone = build_backbone(
        settings.backbone,
        levels=range(finest, COARSEST_BACKBONE_LEVEL + 1),
        weights=settings.weights if pretrained else "random",
        frozen_stages=settings.frozen_stages,
        freeze_batch_norm=settings.freeze_batch_norm,
    )
    return MimicDet(
        backbone=backbone,
        pyramid=Pyramid(
            in_channels=backbone.channels,
            levels=settings.levels,
            channels=settings.pyramid_channels,
            norm=settings.pyramid_norm,
        ),
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


@dataclass(frozen=True)
class LoadedModel:
    """A detector from a model folder, in evaluation mode, with what prediction needs besides."""

    model: MimicDet
    settings: ModelSettings
    inference: InferenceSettings
    categories: tuple[Category, ...]


def load_model(folder: str | Path, device: torch.device | str = "cpu") -> LoadedModel:
    """Reads a folder that :func:`mimicdet.models.pretrained_folder.save_model` wrote.

    Raises:
        UserError: no model folder, or one that is broken, of another family or of a newer version.
    """
    description = read_description(folder)
    if description.family != FAMILY:
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
    model = build_model(settings, len(description.categories), pretrained=False)
    load_weights(folder, model)
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    return LoadedModel(model, settings, inference, description.categories)
