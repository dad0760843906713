"""RetinaNet: nine anchors a cell, a class and a box branch of four convolutions (Lin et al., ICCV 2017).

Torchvision's own head, so that its published weights load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead

from mimicdet.assign_dense import Match, by_overlap
from mimicdet.config.rivals import RetinaNetSettings
from mimicdet.losses.recipe import Learning, LossSum, PositiveAnchors, Sums, focal_sum
from mimicdet.models.anchors import Anchors, base_boxes
from mimicdet.models.box_decoders import RAW, from_deltas
from mimicdet.models.branches import Branches, rows
from mimicdet.models.one_stage import HeadMaps, OneStage, OneStageHead, OneStageMaps
from mimicdet.models.trunk import Trunk
from mimicdet.ops.boxes import encode_deltas

RATIOS = (0.5, 1.0, 2.0)
ANCHORS = 9
"""Of a cell."""
FINEST_SIDE = 4
"""Side of the smallest anchors of a level, in cells."""


class RetinaHead(OneStageHead):
    """Torchvision's two branches behind this project's interface.

    Args:
        classification_head, regression_head: torchvision's.
    """

    def __init__(
        self, *, classification_head: RetinaNetClassificationHead, regression_head: RetinaNetRegressionHead
    ) -> None:
        super().__init__()
        self.classification_head = classification_head
        self.regression_head = regression_head

    def forward(self, levels: list[Tensor]) -> HeadMaps:
        return HeadMaps(self.classification_head(levels), self.regression_head(levels), None)

    def branches(self) -> Branches:
        """See ``mimicdet.models.branches``."""
        classes, boxes = self.classification_head, self.regression_head
        return Branches(
            classes.conv,
            boxes.conv,
            lambda feature: rows(classes.cls_logits(feature), ANCHORS),
            lambda feature, level: rows(boxes.bbox_reg(feature), ANCHORS),
        )


def retinanet(*, trunk: Trunk, num_classes: int, groups: int = 0) -> OneStage:
    """RetinaNet on a pyramid.

    Args:
        num_classes: K.
        groups: of the group normalisation after each convolution of the head; 0: none, as published.
    """
    norm = partial(nn.GroupNorm, groups) if groups else None
    head = RetinaHead(
        classification_head=RetinaNetClassificationHead(trunk.channels, ANCHORS, num_classes, norm_layer=norm),
        regression_head=RetinaNetRegressionHead(trunk.channels, ANCHORS, norm_layer=norm),
    )
    return OneStage(
        trunk=trunk,
        head=head,
        anchors=retina_anchors(trunk.level_numbers),
        decode_boxes=from_deltas,
        num_classes=num_classes,
    )


def retina_anchors(levels: Sequence[int]) -> Anchors:
    """Three sizes, 2^0, 2^(1/3) and 2^(2/3) times four cells in whole pixels, in three shapes."""
    sides = [FINEST_SIDE * 2**level for level in levels]
    base = [base_boxes([side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))], RATIOS) for side in sides]
    return Anchors(base=base, levels=levels, convention="corner")


def build(settings: RetinaNetSettings.Model, trunk: Trunk, num_classes: int) -> OneStage:
    """The detector of the family's settings."""
    return retinanet(trunk=trunk, num_classes=num_classes, groups=settings.head_groups)


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

    def sums(self, detector: OneStage, maps: OneStageMaps, match: Tensor, positives: PositiveAnchors) -> Sums:
        wanted = encode_deltas(positives.boxes, maps.places.anchors[positives.anchor], std=RAW)
        deltas = maps.head.box_outputs[positives.image, positives.anchor]
        return {
            "classification": LossSum(focal_sum(maps, match, positives, alpha=self.alpha, gamma=self.gamma), None),
            "boxes": LossSum((deltas - wanted).abs().sum(), None),
        }


def learning(settings: RetinaNetSettings.Learning) -> Learning:
    """How the detector learns, of the family's settings."""
    recipe = RetinaRecipe(
        positive_iou=settings.positive_iou,
        negative_iou=settings.negative_iou,
        alpha=settings.focal_alpha,
        gamma=settings.focal_gamma,
    )
    return Learning(recipe, {"classification": settings.classification, "boxes": settings.boxes})
