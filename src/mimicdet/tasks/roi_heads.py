"""Reads two-stage teachers from what users have: Faster R-CNN weights and models, and runs of the mimic task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import detection
from torchvision.models._meta import _COCO_CATEGORIES

from mimicdet.build import load_model
from mimicdet.config import InferenceSettings
from mimicdet.data.batch import empty_batch
from mimicdet.errors import UserError
from mimicdet.inference.decode import Detections
from mimicdet.models.faster_rcnn import FasterRcnn, SecondStage
from mimicdet.models.mimicdet import HEAD_STD
from mimicdet.ops.boxes import decode_deltas
from mimicdet.tasks.mimic import MimicTask
from mimicdet.tasks.mimic_run import BuildTask, read_mimic_run
from mimicdet.teachers.roi import OwnFasterRcnn, RoiHead, TorchvisionFasterRcnn
from mimicdet.weights.folder import DESCRIPTION_FILE, read_description
from mimicdet.weights.state_dict import SUFFIXES, read_state

_WITHOUT_EPS = "258fb6c6"
"""Torchvision runs this file's batch norm with an epsilon of 0 (its ``overwrite_eps``)."""


def read_roi_head(path: Path, build_task: BuildTask) -> tuple[RoiHead, list[str]] | None:
    """The two-stage detector in a file or run folder and its class names; None where there is none in it.

    Raises:
        UserError: it says that it holds one, and does not.
    """
    if path.suffix in SUFFIXES and path.is_file():
        state = read_state(path)
        return _faster_rcnn(path, state) if "roi_heads.box_predictor.cls_score.weight" in state else None
    if (path / DESCRIPTION_FILE).is_file() and read_description(path).family == "faster_rcnn":
        loaded = load_model(path)
        assert isinstance(loaded.model, FasterRcnn)
        return OwnFasterRcnn(network=loaded.model), [category.name for category in loaded.categories]
    if (path / "settings.yaml").is_file() and (path / "checkpoints").is_dir():
        trained = read_mimic_run(path, build_task)
        return MimicHead(task=trained.task), [category.name for category in trained.categories]
    return None


class MimicHead:
    """The T-head of a mimic task.

    Args:
        task: trained.
    """

    def __init__(self, *, task: MimicTask) -> None:
        self.network = task
        self.num_features = task.t_head.classifier.in_features

    def second_stage(self, images: Tensor, sizes: Tensor, boxes: Tensor, image: Tensor) -> SecondStage:
        """See ``mimicdet.teachers.roi.RoiHead``."""
        seen = self.network.t_head_on(images, sizes, boxes, image)
        moved = decode_deltas(seen.deltas, boxes, std=HEAD_STD)[:, None]
        return SecondStage(seen.logits.roll(1, dims=1), moved, seen.class_feature)  # the background comes first there

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """See ``mimicdet.teachers.roi.RoiHead``; with the default settings."""
        return self.network.detect_by_t_head(empty_batch(images, sizes), InferenceSettings())


def _faster_rcnn(file: Path, state: dict[str, Tensor]) -> tuple[RoiHead, list[str]]:
    outputs = len(state["roi_heads.box_predictor.cls_score.weight"])
    is_v2 = "roi_heads.box_head.0.0.weight" in state
    make: Any = detection.fasterrcnn_resnet50_fpn_v2 if is_v2 else detection.fasterrcnn_resnet50_fpn
    model = make(weights=None, weights_backbone=None, num_classes=outputs)
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise UserError(f"{file} is no Faster R-CNN on ResNet-50 as torchvision makes it") from error
    if unexpected or [key for key in missing if not key.endswith("num_batches_tracked")]:
        first = (unexpected or missing)[0]
        raise UserError(f"{file} is no Faster R-CNN on ResNet-50 as torchvision makes it: {first} does not fit")
    if _WITHOUT_EPS in file.name:
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eps = 0.0
    names = list(_COCO_CATEGORIES) if outputs == len(_COCO_CATEGORIES) else list(map(str, range(outputs)))
    return TorchvisionFasterRcnn(model=model), names[1:]
