"""Torchvision's detection weights as detectors of this project: RetinaNet and FCOS on ResNet-50, from a file.

``retinanet_resnet50_fpn_coco-eeacb38b.pth``, ``retinanet_resnet50_fpn_v2_coco-5905b1c5.pth``,
``fcos_resnet50_fpn_coco-99b0c9b7.pth``, and what users trained with the same classes of torchvision.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models._meta import _COCO_CATEGORIES

from mimicdet.data.dataset import Category
from mimicdet.errors import UserError
from mimicdet.weights.state_dict import read_state

_RENAMED = (
    (r"^backbone\.body\.", "trunk.backbone.network."),
    (r"^backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?\.(?=weight|bias)", r"trunk.pyramid.lateral.{}."),
    (r"^backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?\.(?=weight|bias)", r"trunk.pyramid.output.{}."),
    (r"^backbone\.fpn\.extra_blocks\.", "trunk.pyramid.extra."),
)
_FINEST = 3
_UNUSED = ("N/A", "__background__")
_WITHOUT_EPS = "eeacb38b"
"""Torchvision runs this file's batch norm with an epsilon of 0 (its ``overwrite_eps``)."""
_EPS = 1e-5


@dataclass(frozen=True)
class TorchvisionWeights:
    """Holds the content of a file in this project's terms."""

    model: dict[str, Any]  # of the family's ``Model`` settings
    inference: dict[str, Any]  # fields of ``mimicdet.config.InferenceSettings``: torchvision's own defaults
    categories: tuple[Category, ...]
    state: dict[str, Tensor]


def read_torchvision(file: Path) -> TorchvisionWeights:
    """Reads the detector in a file that torchvision wrote.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    raw = read_state(file)
    classifier = raw.get("head.classification_head.cls_logits.weight")
    if classifier is None or "backbone.body.layer4.2.conv3.weight" not in raw:
        raise UserError(
            f"{file} holds no RetinaNet or FCOS (ResNet-50) as torchvision saves it; give such a file or a model folder"
        )
    is_fcos = "head.regression_head.bbox_ctrness.weight" in raw
    normalised = is_fcos or "head.classification_head.conv.0.1.weight" in raw
    state = {_renamed(key, is_fcos): value for key, value in raw.items() if not key.endswith("num_batches_tracked")}
    per_cell = 1 if is_fcos else 9
    outputs = len(classifier) // per_cell
    categories = _categories(outputs)
    kept = torch.tensor([category.id for category in categories])
    for key in ("head.classification_head.cls_logits.weight", "head.classification_head.cls_logits.bias"):
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


def _categories(outputs: int) -> tuple[Category, ...]:
    """Returns COCO's categories if their number fits, else a number for each output but the background."""
    names = _COCO_CATEGORIES if outputs == len(_COCO_CATEGORIES) else [_UNUSED[1], *map(str, range(1, outputs))]
    return tuple(Category(id=i, name=name) for i, name in enumerate(names) if name not in _UNUSED)
