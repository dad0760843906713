"""From settings to modules: the only place where the two meet."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import ValidationError

from mimicdet.arguments import checked
from mimicdet.config import SETTINGS_OF, InferenceSettings, MimicDetSettings, TrunkSettings
from mimicdet.config.rivals import BranchSettings, DenseSettings
from mimicdet.data.dataset import Category
from mimicdet.errors import UserError
from mimicdet.families import atss, fcos, retinanet
from mimicdet.losses.one_stage import Learning
from mimicdet.models.backbone import build_backbone
from mimicdet.models.detector import DetectionModel, Trunk
from mimicdet.models.device import move_to
from mimicdet.models.faster_rcnn import faster_rcnn
from mimicdet.models.mimicdet import MimicDet, Refinement
from mimicdet.models.one_stage import OneStage
from mimicdet.models.pyramid import COARSEST_BACKBONE_LEVEL, Pyramid, he_init
from mimicdet.models.s_head import SHead
from mimicdet.weights.description import first_fault
from mimicdet.weights.folder import DESCRIPTION_FILE, load_weights, read_description, require_fit
from mimicdet.weights.pretrained import SUFFIXES, read_torchvision, require_usable


def _mimicdet(settings: MimicDetSettings.Model, trunk: Trunk, num_classes: int) -> MimicDet:
    refinement = Refinement(channels=settings.pyramid_channels)
    s_head = SHead(
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
    )
    return MimicDet(trunk=trunk, refinement=refinement, s_head=s_head)


class Family(NamedTuple):
    """Says how a family's detectors are built around a trunk, and how the dense ones learn."""

    build: Callable[[Any, Trunk, int], DetectionModel]
    learning: Callable[[Any], Learning] | None = None  # None where a task of its own says so


FAMILIES = {
    "mimicdet": Family(_mimicdet),
    "retinanet": Family(retinanet.build, retinanet.learning),
    "fcos": Family(fcos.build, fcos.learning),
    "atss": Family(atss.build_atss, atss.atss_learning),
    "gfl": Family(atss.build_gfl, atss.gfl_learning),
    "faster_rcnn": Family(lambda own, trunk, k: faster_rcnn(trunk=trunk, num_classes=k, features=own.head_features)),
}
"""By the name that ``model.family`` has. A new family of dense detectors is one line here."""


def learning_of(settings: DenseSettings) -> Learning:
    """Returns how a dense detector learns: its assignment, its losses and their weights."""
    learning = FAMILIES[settings.model.family].learning
    assert learning is not None
    return learning(settings.one_stage)


def build_model(
    settings: TrunkSettings, num_classes: int, *, pretrained: bool = True, finest_level: int | None = None
) -> DetectionModel:
    """Builds a detector of the family that ``settings.family`` names.

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
    trunk = build_trunk(settings, settings.levels, finest_level=finest, pretrained=pretrained)
    detector = FAMILIES[settings.family].build(settings, trunk, num_classes)
    if isinstance(detector, OneStage) and isinstance(settings, BranchSettings) and settings.head_init == "he":
        for convs in detector.head.branches()[:2]:
            he_init(convs)
    return detector


def build_trunk(settings: TrunkSettings, levels: Sequence[int], *, finest_level: int, pretrained: bool) -> Trunk:
    """Builds a backbone that returns features from ``finest_level`` on, and a pyramid of ``levels`` over it."""
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
    return Trunk(backbone=backbone, pyramid=pyramid)


@dataclass(frozen=True)
class LoadedModel:
    """Holds a detector from a model folder, in evaluation mode, and what else prediction needs."""

    model: DetectionModel
    settings: TrunkSettings
    inference: InferenceSettings
    categories: tuple[Category, ...]


@checked()
def load_model(folder: str | Path, device: torch.device | str = "cpu") -> LoadedModel:
    """Reads a folder that :func:`mimicdet.weights.folder.save_model` wrote, or torchvision's weights.

    ```python
    import torch
    from mimicdet import load_model

    loaded = load_model("runs/cells/model")
    with torch.inference_mode():
        found = loaded.model(torch.zeros(1, 3, 128, 128, dtype=torch.uint8))
    print(found.boxes.shape, found.scores.shape, loaded.inference.score_threshold)
    ```

    Args:
        folder: such as ``model`` in a run folder; or a .pth or .safetensors file of torchvision's.
        device: such as ``cpu`` or ``cuda:1``.

    Raises:
        UserError: no model folder, or one that is broken, of another family or of a newer version; a file that holds
            no detector (see ``mimicdet.weights.pretrained``).
    """
    if Path(folder).suffix in SUFFIXES and Path(folder).is_file():
        return _from_torchvision(Path(folder), device)
    description, file = read_description(folder), Path(folder) / DESCRIPTION_FILE
    if description.family not in SETTINGS_OF:
        raise UserError(f"{file}: models of the family {description.family!r} are not known here; update mimicdet")
    described = SETTINGS_OF.get(str(description.model.get("family")), SETTINGS_OF[description.family])
    try:
        settings = described.Model.model_validate_json(json.dumps(dict(description.model)))
        inference = InferenceSettings.model_validate_json(json.dumps(dict(description.inference)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if not where:  # settings that do not go together, which the message names
            raise UserError(f"{file}: {first_fault(error)}") from error
        raise UserError(
            f"{file}: setting {where!r} is not understood ({first['msg']}); "
            f"it was written by another version of mimicdet"
        ) from error
    if settings.family != description.family:
        raise UserError(
            f"{file} says family '{description.family}' and describes a model of '{settings.family}'; "
            f"restore the folder as it was saved"
        )
    _require_buildable(folder, settings, len(description.categories))
    model = build_model(settings, len(description.categories), pretrained=False)
    load_weights(folder, model)
    move_to(model, device)
    model = model.to(memory_format=torch.channels_last).eval()
    return LoadedModel(model, settings, inference, description.categories)


def _require_buildable(folder: str | Path, settings: TrunkSettings, num_classes: int) -> None:
    """Raises UserError unless a model of the weights' shapes can be built; takes no memory, whatever the sizes."""
    try:
        with torch.device("meta"):
            model = build_model(settings, num_classes, pretrained=False)
    except UserError as error:
        raise UserError(f"{Path(folder) / DESCRIPTION_FILE}: {error}") from error
    except Exception as error:  # whatever sizes that go with nothing provoke in layers
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        file = Path(folder) / DESCRIPTION_FILE
        raise UserError(
            f"{file} describes no model that can be built ({why}); save or download the model again"
        ) from error
    require_fit(folder, model)


def _from_torchvision(file: Path, device: torch.device | str) -> LoadedModel:
    found = read_torchvision(file)
    settings = SETTINGS_OF[found.model["family"]].Model(**found.model)
    inference = InferenceSettings(**found.inference)
    model = build_model(settings, len(found.categories), pretrained=False)
    pixels = {f"trunk.backbone.{name}": value for name, value in model.trunk.backbone.named_buffers(recurse=False)}
    require_usable(found.state, model, file)
    try:
        model.load_state_dict(found.state | pixels)
    except RuntimeError as error:  # lists every entry that differs, over many lines
        first = str(error).splitlines()[1].strip()
        raise UserError(f"{file} is no {settings.family} on ResNet-50 as torchvision makes it: {first}") from error
    move_to(model, device)
    model = model.to(memory_format=torch.channels_last).eval()
    return LoadedModel(model, settings, inference, found.categories)
