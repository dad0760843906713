"""RetinaNet: nine anchors a cell, a class and a box branch of four convolutions (Lin et al., ICCV 2017).

Torchvision's own head, so that its published weights load.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead

from mimicdet.models.anchors import Anchors, base_boxes
from mimicdet.models.backbone import Backbone
from mimicdet.models.box_decoders import from_deltas
from mimicdet.models.branches import Branches, rows
from mimicdet.models.one_stage import HeadMaps, OneStage
from mimicdet.models.pyramid import Pyramid

RATIOS = (0.5, 1.0, 2.0)
ANCHORS = 9
"""Of a cell."""
FINEST_SIDE = 4
"""Side of the smallest anchors of a level, in cells."""


class RetinaHead(nn.Module):
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


def retinanet(*, backbone: Backbone, pyramid: Pyramid, num_classes: int, groups: int = 0) -> OneStage:
    """RetinaNet on a pyramid.

    Args:
        num_classes: K.
        groups: of the group normalisation after each convolution of the head; 0: none, as published.
    """
    norm = partial(nn.GroupNorm, groups) if groups else None
    head = RetinaHead(
        classification_head=RetinaNetClassificationHead(pyramid.channels, ANCHORS, num_classes, norm_layer=norm),
        regression_head=RetinaNetRegressionHead(pyramid.channels, ANCHORS, norm_layer=norm),
    )
    return OneStage(
        backbone=backbone,
        pyramid=pyramid,
        head=head,
        anchors=retina_anchors(pyramid.level_numbers),
        decode_boxes=from_deltas,
        num_classes=num_classes,
    )


def retina_anchors(levels: Sequence[int]) -> Anchors:
    """Three sizes, 2^0, 2^(1/3) and 2^(2/3) times four cells in whole pixels, in three shapes."""
    sides = [FINEST_SIDE * 2**level for level in levels]
    base = [base_boxes([side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))], RATIOS) for side in sides]
    return Anchors(base=base, levels=levels, convention="corner")
