"""ATSS and GFL: one square anchor a cell, whose statistics choose the positives.

ATSS predicts deltas and centerness (Zhang et al., CVPR 2020). GFL scores classes by the quality of their boxes and
predicts each side as a distribution (Li et al., NeurIPS 2020).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from mimicdet.assign_dense import LEFT_OUT, Match, by_statistics
from mimicdet.config.rivals import AtssSettings, GflSettings
from mimicdet.families.shared_head import SharedHead
from mimicdet.losses.one_stage import distribution_losses, overlap_losses, quality_focal_losses
from mimicdet.losses.recipe import (
    Learning,
    LossSum,
    PositiveAnchors,
    Sums,
    anchor_centers,
    centerness_at,
    focal_sum,
    predicted_boxes,
)
from mimicdet.models.anchors import square_anchors
from mimicdet.models.box_decoders import from_distributions, from_scaled_deltas
from mimicdet.models.one_stage import OneStage, OneStageMaps
from mimicdet.models.trunk import Trunk
from mimicdet.ops.boxes import iou_of_pairs

SIDE_IN_CELLS = 8
LONGEST_DISTANCE = 16
"""Cells; a side's distribution (GFL) covers 0 to this many."""


def atss(*, trunk: Trunk, num_classes: int, groups: int = 32) -> OneStage:
    """ATSS on a trunk.

    Args:
        num_classes: K.
        groups: of the group normalisation after each convolution of the head (32, as published); 0: none.
    """
    head = SharedHead(
        channels=trunk.channels,
        num_classes=num_classes,
        box_outputs=4,
        levels=len(trunk.level_numbers),
        quality=True,
        groups=groups,
    )
    anchors = square_anchors(trunk.level_numbers, side_in_cells=SIDE_IN_CELLS)
    return OneStage(trunk=trunk, head=head, anchors=anchors, decode_boxes=from_scaled_deltas, num_classes=num_classes)


def gfl(*, trunk: Trunk, num_classes: int, groups: int = 32) -> OneStage:
    """GFL on a trunk; arguments as for :func:`atss`. Its anchors serve the assignment, which is ATSS's."""
    head = SharedHead(
        channels=trunk.channels,
        num_classes=num_classes,
        box_outputs=4 * (LONGEST_DISTANCE + 1),
        levels=len(trunk.level_numbers),
        quality=False,
        groups=groups,
    )
    anchors = square_anchors(trunk.level_numbers, side_in_cells=SIDE_IN_CELLS)
    return OneStage(trunk=trunk, head=head, anchors=anchors, decode_boxes=from_distributions, num_classes=num_classes)


def build_atss(settings: AtssSettings.Model, trunk: Trunk, num_classes: int) -> OneStage:
    """The detector of ATSS's settings."""
    return atss(trunk=trunk, num_classes=num_classes, groups=settings.head_groups)


def build_gfl(settings: GflSettings.Model, trunk: Trunk, num_classes: int) -> OneStage:
    """The detector of GFL's settings."""
    return gfl(trunk=trunk, num_classes=num_classes, groups=settings.head_groups)


@dataclass(frozen=True)
class AtssRecipe:
    """Focal loss and centerness over the number of positives; generalised IoU weighted by centerness."""

    candidates: int
    alpha: float
    gamma: float

    @property
    def match(self) -> Match:
        return partial(by_statistics, candidates=self.candidates)

    def sums(self, detector: OneStage, maps: OneStageMaps, match: Tensor, positives: PositiveAnchors) -> Sums:
        central, quality = centerness_at(maps, positives)
        overlap = overlap_losses(predicted_boxes(detector, maps, positives), positives.boxes)
        return {
            "classification": LossSum(focal_sum(maps, match, positives, alpha=self.alpha, gamma=self.gamma), None),
            "boxes": LossSum((overlap * central).sum(), central.sum()),
            "quality": LossSum(F.binary_cross_entropy_with_logits(quality, central, reduction="sum"), None),
        }


@dataclass(frozen=True)
class GflRecipe:
    """Quality focal loss over the number of positives; generalised IoU and distributions weighted by the score."""

    candidates: int
    gamma: float

    @property
    def match(self) -> Match:
        return partial(by_statistics, candidates=self.candidates)

    def sums(self, detector: OneStage, maps: OneStageMaps, match: Tensor, positives: PositiveAnchors) -> Sums:
        image, anchor, wanted, labels = positives
        boxes = predicted_boxes(detector, maps, positives)
        with torch.no_grad():
            overlap = iou_of_pairs(boxes, wanted)
            weight = maps.head.logits[image, anchor].sigmoid().amax(-1)
        targets = torch.zeros_like(maps.head.logits)
        targets[image, anchor, labels] = overlap
        class_losses = quality_focal_losses(maps.head.logits, targets, gamma=self.gamma)
        center = anchor_centers(maps, positives)
        stride = maps.places.stride[anchor, None]
        distances = torch.cat([center - wanted[:, :2], wanted[:, 2:] - center], dim=-1) / stride
        distributions = distribution_losses(maps.head.box_outputs[image, anchor], distances)
        return {
            "classification": LossSum((class_losses * (match != LEFT_OUT)).sum(), None),
            "boxes": LossSum((overlap_losses(boxes, wanted) * weight).sum(), weight.sum()),
            "distribution": LossSum((distributions * weight).sum(), weight.sum()),
        }


def atss_learning(settings: AtssSettings.Learning) -> Learning:
    """How ATSS learns, of its settings."""
    recipe = AtssRecipe(candidates=settings.candidates, alpha=settings.focal_alpha, gamma=settings.focal_gamma)
    weights = {"classification": settings.classification, "boxes": settings.boxes, "quality": settings.quality}
    return Learning(recipe, weights)


def gfl_learning(settings: GflSettings.Learning) -> Learning:
    """How GFL learns, of its settings."""
    recipe = GflRecipe(candidates=settings.candidates, gamma=settings.focal_gamma)
    names = {"classification": settings.classification, "boxes": settings.boxes, "distribution": settings.distribution}
    return Learning(recipe, names)
