"""FCOS: a point a cell, distances to the four sides, and centerness (Tian et al., ICCV 2019).

Torchvision's own head, so that its published weights load; like it, points are the upper left corners of the cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead

from mimicdet.assign_dense import Match, by_center
from mimicdet.config.rivals import FcosSettings
from mimicdet.losses.one_stage import overlap_losses
from mimicdet.losses.recipe import Learning, LossSum, PositiveAnchors, Sums, centerness_at, focal_sum, predicted_boxes
from mimicdet.models.anchors import square_anchors
from mimicdet.models.box_decoders import from_distances
from mimicdet.models.branches import Branches, rows
from mimicdet.models.one_stage import HeadMaps, OneStage, OneStageHead, OneStageMaps
from mimicdet.models.trunk import Trunk


class FcosHead(OneStageHead):
    """Torchvision's two branches behind this project's interface.

    Args:
        classification_head, regression_head: torchvision's.
    """

    def __init__(self, *, classification_head: FCOSClassificationHead, regression_head: FCOSRegressionHead) -> None:
        super().__init__()
        self.classification_head = classification_head
        self.regression_head = regression_head

    def forward(self, levels: list[Tensor]) -> HeadMaps:
        boxes, centerness = self.regression_head(levels)
        return HeadMaps(self.classification_head(levels), boxes, centerness.squeeze(-1))

    def branches(self) -> Branches:
        """See ``mimicdet.models.branches``."""
        classes, boxes = self.classification_head, self.regression_head
        return Branches(
            classes.conv,
            boxes.conv,
            lambda feature: rows(classes.cls_logits(feature), 1),
            lambda feature, level: rows(F.relu(boxes.bbox_reg(feature)), 1),
        )


def fcos(*, trunk: Trunk, num_classes: int, groups: int = 32) -> OneStage:
    """FCOS on a pyramid.

    Args:
        num_classes: K.
        groups: of the group normalisation after each convolution of the head (32, as published); 0: none.
    """
    norm = partial(nn.GroupNorm, groups) if groups else nn.Identity
    head = FcosHead(
        classification_head=FCOSClassificationHead(trunk.channels, 1, num_classes, norm_layer=norm),
        regression_head=FCOSRegressionHead(trunk.channels, 1, norm_layer=norm),
    )
    return OneStage(
        trunk=trunk,
        head=head,
        anchors=square_anchors(trunk.level_numbers, side_in_cells=1, convention="corner"),
        decode_boxes=from_distances,
        num_classes=num_classes,
        score="root",
    )


def build(settings: FcosSettings.Model, trunk: Trunk, num_classes: int) -> OneStage:
    """The detector of the family's settings."""
    return fcos(trunk=trunk, num_classes=num_classes, groups=settings.head_groups)


@dataclass(frozen=True)
class FcosRecipe:
    """Focal loss, generalised IoU and centerness over the number of positives (torchvision's)."""

    radius: float
    alpha: float
    gamma: float

    @property
    def match(self) -> Match:
        return partial(by_center, radius=self.radius)

    def sums(self, detector: OneStage, maps: OneStageMaps, match: Tensor, positives: PositiveAnchors) -> Sums:
        central, quality = centerness_at(maps, positives)
        return {
            "classification": LossSum(focal_sum(maps, match, positives, alpha=self.alpha, gamma=self.gamma), None),
            "boxes": LossSum(overlap_losses(predicted_boxes(detector, maps, positives), positives.boxes).sum(), None),
            "quality": LossSum(F.binary_cross_entropy_with_logits(quality, central, reduction="sum"), None),
        }


def learning(settings: FcosSettings.Learning) -> Learning:
    """How the detector learns, of the family's settings."""
    recipe = FcosRecipe(radius=settings.center_radius, alpha=settings.focal_alpha, gamma=settings.focal_gamma)
    weights = {"classification": settings.classification, "boxes": settings.boxes, "quality": settings.quality}
    return Learning(recipe, weights)
