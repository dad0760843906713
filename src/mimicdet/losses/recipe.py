"""How a one-stage detector learns: what a family's assignment and losses have in common.

A batch's maps and matches in, loss sums and what they are divided by out. P positive anchors of a batch.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mimicdet.assign_dense import LEFT_OUT, Match
from mimicdet.losses.one_stage import centerness, focal_losses
from mimicdet.models.one_stage import OneStage, OneStageMaps


class PositiveAnchors(NamedTuple):
    """Holds the positive anchors of a batch, image by image, and what they should be."""

    image: Tensor  # (P,) int64
    anchor: Tensor  # (P,) int64
    boxes: Tensor  # (P, 4) of the matched objects
    labels: Tensor  # (P,) int64


class LossSum(NamedTuple):
    """Holds a loss summed over anchors, and its share of what it is divided by on this process."""

    total: Tensor
    share: Tensor | None  # 0-d float; None: the number of positives


Sums = dict[str, LossSum]
"""Loss sums by the names of their weights among the family's settings."""


class Recipe(Protocol):
    """A detector's way to learn."""

    @property
    def match(self) -> Match: ...

    def sums(self, detector: OneStage, maps: OneStageMaps, match: Tensor, positives: PositiveAnchors) -> Sums:
        """The losses on a batch; ``match`` (B, A) is as ``mimicdet.assign_dense.match_objects`` gives it."""
        ...


class Learning(NamedTuple):
    """Holds a recipe and the weights of its losses by name."""

    recipe: Recipe
    weights: dict[str, float]


def focal_sum(maps: OneStageMaps, match: Tensor, positives: PositiveAnchors, *, alpha: float, gamma: float) -> Tensor:
    """Focal loss of every class at every anchor that is not left out, 0-d."""
    targets = torch.zeros_like(maps.head.logits)  # (B, A, K)
    targets[positives.image, positives.anchor, positives.labels] = 1
    return (focal_losses(maps.head.logits, targets, alpha=alpha, gamma=gamma) * (match != LEFT_OUT)).sum()


def predicted_boxes(detector: OneStage, maps: OneStageMaps, positives: PositiveAnchors) -> Tensor:
    """(P, 4) as predicted at the positives."""
    places, outputs = maps.places, maps.head.box_outputs[positives.image, positives.anchor]
    return detector.decode_boxes(outputs, places.anchors[positives.anchor], places.stride[positives.anchor])


def anchor_centers(maps: OneStageMaps, positives: PositiveAnchors) -> Tensor:
    """(P, 2) of the positives' anchors."""
    anchors = maps.places.anchors[positives.anchor]
    return (anchors[:, :2] + anchors[:, 2:]) / 2


def centerness_at(maps: OneStageMaps, positives: PositiveAnchors) -> tuple[Tensor, Tensor]:
    """(P,) wanted centerness and predicted logits."""
    assert maps.head.quality is not None
    wanted = centerness(anchor_centers(maps, positives), positives.boxes)
    return wanted, maps.head.quality[positives.image, positives.anchor]
