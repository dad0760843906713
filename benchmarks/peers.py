"""The detectors that are compared: MimicDet and torchvision's, on equal backbones, and the floor under all of them.

All are random but for shape; none of them detects anything, so that no one's time depends on what it happens to find.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool, LastLevelP6P7

from mimicdet.build import build_model
from mimicdet.config import InferenceSettings, MimicDetSettings
from mimicdet.models.backbone import Backbone
from mimicdet.models.mimicdet import MimicDet

BACKBONES = {"resnet50": "resnet50.tv_in1k", "lite0": "tf_efficientnet_lite0.in1k"}
PEERS = ("retinanet", "fcos", "faster_rcnn")
CLASSES = 80
INFERENCE = InferenceSettings(score_threshold=0.05)
"""With torchvision's threshold, for all: above what any class gets from untrained weights."""


def mimicdet(backbone: str, *, classes: int = CLASSES, alignment: str = "guided") -> MimicDet:
    """The paper's detector at full width, in training mode, with the paper's frozen stages."""
    settings = MimicDetSettings.Model(backbone=BACKBONES[backbone], weights="random", alignment=alignment)  # type: ignore[arg-type]
    model = build_model(settings, classes)
    return _silent(model, model.s_head.classifier, background=-1)


class Floor(nn.Module):
    """Backbone and pyramid P3..P7 alone: what every dense detector pays."""

    def __init__(self, model: MimicDet) -> None:
        super().__init__()
        self.trunk = model.trunk

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.trunk(images).levels


class TorchvisionBackbone(nn.Module):
    """A timm backbone under torchvision's own pyramid, as its detectors take it."""

    def __init__(self, backbone: Backbone, extra: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = 256
        self.fpn = FeaturePyramidNetwork(list(backbone.channels.values()), self.out_channels, extra_blocks=extra)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return self.fpn(OrderedDict((str(l), feature) for l, feature in self.backbone(images).items()))


def peer(name: str, backbone: str, *, classes: int = CLASSES, trainable_layers: int = 3) -> nn.Module:
    """One of ``PEERS``: torchvision's own model on ResNet-50, its heads on timm's backbone otherwise.

    Args:
        trainable_layers: of ResNet-50; 3 is torchvision's default, and MimicDet's.
    """
    # Images of any size pass unchanged: what is compared is the networks, not resizing
    options: dict[str, Any] = {"num_classes": classes + 1}
    if backbone == "resnet50":
        options |= {"weights": None, "weights_backbone": None}
        make = {
            "retinanet": detection.retinanet_resnet50_fpn,
            "fcos": detection.fcos_resnet50_fpn,
            "faster_rcnn": detection.fasterrcnn_resnet50_fpn,
        }[name]
        # Without weights torchvision puts live batch norm in; pre-trained, as everybody uses it, it is frozen
        model = _frozen(make(**options), trainable_layers)
    else:
        settings = MimicDetSettings.Model(backbone=BACKBONES[backbone], weights="random")
        finest = 2 if name == "faster_rcnn" else 3
        body = build_model(settings, 1, finest_level=finest).trunk.backbone
        if name == "faster_rcnn":
            trunk = TorchvisionBackbone(body, LastLevelMaxPool())
            sizes = tuple((s,) for s in (32, 64, 128, 256, 512))
            anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))
            model = detection.FasterRCNN(trunk, rpn_anchor_generator=anchors, **options)
            model.roi_heads.box_roi_pool.featmap_names = ["2", "3", "4", "5"]
        else:
            trunk = TorchvisionBackbone(body, LastLevelP6P7(256, 256))
            model = {"retinanet": detection.RetinaNet, "fcos": detection.FCOS}[name](trunk, **options)
    model.transform = _AsIs(model.transform)
    last = (
        model.roi_heads.box_predictor.cls_score if name == "faster_rcnn" else model.head.classification_head.cls_logits
    )
    return _silent(model, last, background=0 if name == "faster_rcnn" else None)


def _silent(model: Any, classifier: Any, *, background: int | None) -> Any:
    """``model`` with a last layer that finds nothing anywhere: softmax with a background class, or sigmoid without."""
    nn.init.zeros_(classifier.weight)
    nn.init.constant_(classifier.bias, -10.0)
    if background is not None:
        with torch.no_grad():
            classifier.bias[background] = 10.0
    return model


def _frozen(model: nn.Module, trainable_layers: int) -> nn.Module:
    """``model`` with frozen batch norm and first stages, as torchvision makes it from pre-trained weights."""
    from torchvision.ops import FrozenBatchNorm2d

    for module in list(model.modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, child_name, FrozenBatchNorm2d(child.num_features))
    trained = ["layer4", "layer3", "layer2", "layer1", "conv1"][:trainable_layers]
    for name, parameter in model.backbone.body.named_parameters():
        parameter.requires_grad_(any(name.startswith(layer) for layer in trained))
    return model


class _AsIs(GeneralizedRCNNTransform):
    """Torchvision's input step, normalisation and batching, without its resizing."""

    def __init__(self, transform: GeneralizedRCNNTransform) -> None:
        super().__init__(0, 0, transform.image_mean, transform.image_std)

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        return image, target


def random_images(batch: int, height: int, width: int, device: torch.device | str) -> Tensor:
    """(B, 3, H, W) float in 0..1, the same each time."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(batch, 3, height, width, generator=generator).to(device)


def size(text: str) -> tuple[int, int]:
    """``800x1088`` -> height and width; for command lines."""
    height, _, width = text.partition("x")
    return int(height), int(width)
