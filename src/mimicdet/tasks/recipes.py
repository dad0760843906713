"""How RetinaNet, FCOS, ATSS and GFL learn: each one's assignment and losses, as published.

A batch's maps and matches in, loss sums and what they are divided by out. P positive anchors of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mimicdet.assign_dense import LEFT_OUT, Match, by_center, by_overlap, by_statistics
from mimicdet.config import OneStageSettings
from mimicdet.losses.one_stage import (
    centerness,
    distribution_losses,
    focal_losses,
    overlap_losses,
    quality_focal_losses,
)
from mimicdet.models.box_decoders import RAW
from mimicdet.models.one_stage import OneStage, OneStageMaps
from mimicdet.ops.boxes import encode_deltas, iou_of_pairs


class Positives(NamedTuple):
    """The positive anchors of a batch, image by image, and what they should be."""

    image: Tensor  # (P,) int64
    anchor: Tensor  # (P,) int64
    boxes: Tensor  # (P, 4) of the matched objects
    labels: Tensor  # (P,) int64


class Sum(NamedTuple):
    """A loss summed over anchors, and its share of what it is divided by on this process."""

    total: Tensor
    share: Tensor | None  # 0-d float; None: the number of positives


class Recipe(Protocol):
    """A detector's way to learn."""

    @property
    def match(self) -> Match: ...

    def sums(self, detector: OneStage, maps: OneStageMaps, match: Tensor, positives: Positives) -> dict[str, Sum]:
        """Loss sums by the names in ``mimicdet.config.OneStageSettings``.

        Args:
            match: (B, A), see ``mimicdet.assign_dense.match_objects``.
        """
        ...


@dataclass(frozen=True)
class RetinaRecipe:
    """Focal loss, and L1 on the positives' deltas, over the batch's positives (torchvision: each image's)."""

    positive_iou: float
    negative_iou: float
    alpha: float
    gamma: float

    @property
    def match(self) -> Match:
        return partial(by_overlap, positive_iou=self.positive_iou, negative_iou=self.negative_iou)

    def sums(self, detector: OneStage, maps: OneStageMaps, match: Tensor, positives: Positives) -> dict[str, Sum]:
        wanted = encode_deltas(positives.boxes, maps.places.anchors[positives.anchor], std=RAW)
        deltas = maps.head.box_outputs[positives.image, positives.anchor]
        return {
            "classification": Sum(_focal(maps, match, positives, self.alpha, self.gamma), None),
            "boxes": Sum((deltas - wanted).abs().sum(), None),
        }


@dataclass(frozen=True)
class FcosRecipe:
    """Focal loss, generalised IoU and centerness over the number of positives (torchvision's)."""

    radius: float
    alpha: float
    gamma: float

    @property
    def match(self) -> Match:
        return partial(by_center, radius=self.radius)

    def sums(self, detector: OneStage, maps: OneStageMaps, match: Tensor, positives: Positives) -> dict[str, Sum]:
        central, quality = _centerness(maps, positives)
        return {
            "classification": Sum(_focal(maps, match, positives, self.alpha, self.gamma), None),
            "boxes": Sum(overlap_losses(_boxes(detector, maps, positives), positives.boxes).sum(), None),
            "quality": Sum(F.binary_cross_entropy_with_logits(quality, central, reduction="sum"), None),
        }


@dataclass(frozen=True)
class AtssRecipe:
    """Focal loss and centerness over the number of positives; generalised IoU weighted by centerness."""

    candidates: int
    alpha: float
    gamma: float

    @property
    def match(self) -> Match:
        return partial(by_statistics, candidates=self.candidates)

    def sums(self, detector: OneStage, maps: OneStageMaps, match: Tensor, positives: Positives) -> dict[str, Sum]:
        central, quality = _centerness(maps, positives)
        overlap = overlap_losses(_boxes(detector, maps, positives), positives.boxes)
        return {
            "classification": Sum(_focal(maps, match, positives, self.alpha, self.gamma), None),
            "boxes": Sum((overlap * central).sum(), central.sum()),
            "quality": Sum(F.binary_cross_entropy_with_logits(quality, central, reduction="sum"), None),
        }


@dataclass(frozen=True)
class GflRecipe:
    """Quality focal loss over the number of positives; generalised IoU and distributions weighted by the score."""

    candidates: int
    gamma: float

    @property
    def match(self) -> Match:
        return partial(by_statistics, candidates=self.candidates)

    def sums(self, detector: OneStage, maps: OneStageMaps, match: Tensor, positives: Positives) -> dict[str, Sum]:
        image, anchor, wanted, labels = positives
        boxes = _boxes(detector, maps, positives)
        with torch.no_grad():
            overlap = iou_of_pairs(boxes, wanted)
            weight = maps.head.logits[image, anchor].sigmoid().amax(-1)
        targets = torch.zeros_like(maps.head.logits)
        targets[image, anchor, labels] = overlap
        class_losses = quality_focal_losses(maps.head.logits, targets, gamma=self.gamma)
        center = _centers(maps, positives)
        stride = maps.places.stride[anchor, None]
        distances = torch.cat([center - wanted[:, :2], wanted[:, 2:] - center], dim=-1) / stride
        distributions = distribution_losses(maps.head.box_outputs[image, anchor], distances)
        return {
            "classification": Sum((class_losses * (match != LEFT_OUT)).sum(), None),
            "boxes": Sum((overlap_losses(boxes, wanted) * weight).sum(), weight.sum()),
            "distribution": Sum((distributions * weight).sum(), weight.sum()),
        }


def recipe_of(family: str, settings: OneStageSettings) -> tuple[Recipe, tuple[str, ...]]:
    """How a one-stage detector learns, and the names of its losses."""
    focal = {"alpha": settings.focal_alpha, "gamma": settings.focal_gamma}
    if family == "retinanet":
        overlaps = {"positive_iou": settings.positive_iou, "negative_iou": settings.negative_iou}
        return RetinaRecipe(**overlaps, **focal), ("classification", "boxes")
    if family == "fcos":
        return FcosRecipe(radius=settings.center_radius, **focal), ("classification", "boxes", "quality")
    if family == "atss":
        return AtssRecipe(candidates=settings.candidates, **focal), ("classification", "boxes", "quality")
    recipe = GflRecipe(candidates=settings.candidates, gamma=settings.focal_gamma)
    return recipe, ("classification", "boxes", "distribution")


def _focal(maps: OneStageMaps, match: Tensor, positives: Positives, alpha: float, gamma: float) -> Tensor:
    targets = torch.zeros_like(maps.head.logits)
    targets[positives.image, positives.anchor, positives.labels] = 1
    return (focal_losses(maps.head.logits, targets, alpha=alpha, gamma=gamma) * (match != LEFT_OUT)).sum()


def _boxes(detector: OneStage, maps: OneStageMaps, positives: Positives) -> Tensor:
    """(P, 4) as predicted at the positives."""
    places = maps.places
    outputs = maps.head.box_outputs[positives.image, positives.anchor]
    return detector.decode_boxes(outputs, places.anchors[positives.anchor], places.stride[positives.anchor])


def _centers(maps: OneStageMaps, positives: Positives) -> Tensor:
    anchors = maps.places.anchors[positives.anchor]
    return (anchors[:, :2] + anchors[:, 2:]) / 2


def _centerness(maps: OneStageMaps, positives: Positives) -> tuple[Tensor, Tensor]:
    """(P,) wanted centerness and predicted logits."""
    assert maps.head.quality is not None
    return centerness(_centers(maps, positives), positives.boxes), maps.head.quality[positives.image, positives.anchor]
