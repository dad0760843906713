"""Tiny detectors and batches for tests of models and tasks.

The backbone is one convolution a level whose kernel equals its stride: what it gives at a cell depends on that cell's
pixels alone, so that an image's features are exactly the same on any canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimicdet.config import MimicDetSettings, Settings
from mimicdet.data.batch import Batch, Sample, collate
from mimicdet.models.anchors import square_anchors
from mimicdet.models.backbone import Backbone
from mimicdet.models.detector import Trunk
from mimicdet.models.mimicdet import MimicDet, Refinement
from mimicdet.models.pyramid import Norm, Pyramid
from mimicdet.models.s_head import SHead
from mimicdet.tasks import build_task
from mimicdet.tasks.mimic import MimicTask

LEVELS = (3, 4, 5, 6, 7)
CLASSES = 3
SIZES = ((96, 128), (64, 100), (83, 60))
"""Height and width of three images: whole canvas cells, part of a cell, odd."""


class Patches(nn.Module):
    """Features at the given levels, each cell from its own pixels."""

    def __init__(self, levels: Sequence[int], channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, channels, 2**l, stride=2**l) for l in levels)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [conv(images) for conv in self.convs]


def tiny_backbone(finest: int = 3, channels: int = 6) -> Backbone:
    levels = range(finest, 6)
    return Backbone(
        network=Patches(levels, channels),
        channels=dict.fromkeys(levels, channels),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.4),
    )


def tiny_trunk(finest: int = 3, *, levels: Sequence[int] = LEVELS, channels: int = 8, norm: Norm = "none") -> Trunk:
    backbone = tiny_backbone(finest)
    pyramid = Pyramid(in_channels=backbone.channels, levels=levels, channels=channels, norm=norm)
    return Trunk(backbone=backbone, pyramid=pyramid)


def tiny_detector(
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    levels: Sequence[int] = LEVELS,
    num_classes: int = CLASSES,
    channels: int = 8,
    delta_scale: float = 0.03,
    finest: int = 3,
    norm: Norm = "none",
    **s_head: Any,
) -> MimicDet:
    """A detector with random weights of ordinary scale; ``s_head`` are arguments of ``SHead``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        detector = MimicDet(
            trunk=tiny_trunk(finest, levels=levels, channels=channels, norm=norm),
            refinement=Refinement(channels=channels),
            s_head=SHead(
                in_channels=channels,
                num_classes=num_classes,
                **{"channels": 8, "features": 12, "kernel_size": 3, "finest_kernel_size": 1} | s_head,
            ),
        )
        enliven(detector)
        with torch.no_grad():
            # Adjusted boxes stay near their anchors, so that objects near anchors get positives
            detector.refinement.deltas.weight.mul_(delta_scale)
            detector.refinement.deltas.bias.mul_(delta_scale)
    return detector.to(dtype)


@torch.no_grad()
def enliven(module: nn.Module) -> None:
    """Random weights that keep the scale of what passes, and biases: nothing that a test could miss by being zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=(2 / layer.weight[0].numel()) ** 0.5)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, std=0.1)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.normal_(layer.weight, mean=1, std=0.2)
            nn.init.normal_(layer.bias, std=0.2)


def tiny_settings(**sections: dict[str, Any]) -> Settings:
    """Settings of a tiny mimic task; each section's values may be changed, and ``task``."""
    defaults: dict[str, Any] = {
        "model": {"pyramid_channels": 8, "head_channels": 8, "head_features": 12, "kernel_size": 3}
        | {"finest_kernel_size": 1, "weights": "random", "frozen_stages": 0, "freeze_batch_norm": False},
        "teacher": {"conv_channels": 8},
        "assign": {"proposals": 120, "t_samples": 24, "s_class_samples": 24, "s_box_samples": 6},
    }
    for name, values in sections.items():
        defaults[name] = defaults.get(name, {}) | values if isinstance(values, dict) else values
    return MimicDetSettings(**defaults)


def tiny_task(settings: Settings | None = None, *, seed: int = 0, **detector: Any) -> Any:
    """A task around a tiny detector that follows ``settings.model`` in what concerns the S-head."""
    settings = settings or tiny_settings()
    model = settings.model
    options: dict[str, Any] = {
        "levels": model.levels,
        "channels": model.pyramid_channels,
        "norm": model.pyramid_norm,
        "alignment": model.alignment,
        "offsets": model.offsets,
        "kernel_size": model.kernel_size,
        "finest_kernel_size": model.finest_kernel_size,
        "offset_grad": model.offset_grad,
        "paths": model.head_paths,
        "features": model.head_features,
    }
    finest = min(model.levels[0], settings.teacher.levels[0]) if settings.task == "mimic" else model.levels[0]
    built = tiny_detector(seed=seed, **options | {"finest": finest} | detector)
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        task = build_task(settings, class_names=list(map(str, range(CLASSES))), detector=built)
        if isinstance(task, MimicTask):
            enliven(task.t_head)
    return task.to(next(built.parameters()).dtype)


def sample(
    size: tuple[int, int] = SIZES[0],
    *,
    objects: int = 6,
    seed: int = 0,
    crowd: int = 0,
    levels: Sequence[int] = LEVELS,
    num_classes: int = CLASSES,
) -> Sample:
    """A noise image with objects that lie near anchors; the first ``crowd`` of them are crowd regions."""
    generator = torch.Generator().manual_seed(seed)
    height, width = size
    shapes = [(-(-height // 2**l), -(-width // 2**l)) for l in levels]
    places = square_anchors(levels, side_in_cells=4)(shapes)
    # The coarsest anchors are larger than the image; those of the finer levels overlap it well
    few = places.anchors[(places.level <= 1).nonzero().squeeze(1)]
    anchors = few[torch.randperm(len(few), generator=generator)[:objects]]
    center, side = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    side = side * (1.02 + 0.2 * torch.rand(objects, 2, generator=generator))
    boxes = torch.cat([center - side / 2, center + side / 2], dim=1)
    return Sample(
        image=torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator),
        boxes=boxes,
        labels=torch.randint(0, num_classes, (objects,), generator=generator),
        crowd=torch.arange(objects) < crowd,
        image_id=seed,
        file=f"image{seed}.png",
        original_size=size,
        seed=1000 + seed,
    )


def samples(sizes: Sequence[tuple[int, int]] = SIZES, *, seed: int = 0, objects: int = 6) -> list[Sample]:
    """One sample for each size."""
    return [sample(size, seed=seed + i, objects=objects) for i, size in enumerate(sizes)]


def on_canvas(batch: Batch, height: int, width: int) -> Batch:
    """The batch on a larger canvas, whose padding is not even black."""
    h, w = batch.images.shape[2:]
    images = F.pad(batch.images, (0, width - w, 0, height - h), value=77)
    return replace(batch, images=images)


def tiny_batch(sizes: Sequence[tuple[int, int]] = SIZES, *, seed: int = 0, objects: int = 6) -> Batch:
    return collate(samples(sizes, seed=seed, objects=objects))


def gradients(module: nn.Module) -> dict[str, Tensor | None]:
    """Each trainable parameter's gradient by name."""
    return {name: p.grad for name, p in module.named_parameters() if p.requires_grad}
