"""FCOS: a point a cell, distances to the four sides, and centerness (Tian et al., ICCV 2019).

Torchvision's own head, so that its published weights load; like it, points are the upper left corners of the cells.
"""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead

from mimicdet.models.anchors import Anchors, square
from mimicdet.models.backbone import Backbone
from mimicdet.models.box_decoders import from_distances
from mimicdet.models.branches import Branches, rows
from mimicdet.models.one_stage import HeadMaps, OneStage
from mimicdet.models.pyramid import Pyramid


class FcosHead(nn.Module):
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


def fcos(*, backbone: Backbone, pyramid: Pyramid, num_classes: int, groups: int = 32) -> OneStage:
    """FCOS on a pyramid.

    Args:
        num_classes: K.
        groups: of the group normalisation after each convolution of the head (32, as published); 0: none.
    """
    norm = partial(nn.GroupNorm, groups) if groups else nn.Identity
    head = FcosHead(
        classification_head=FCOSClassificationHead(pyramid.channels, 1, num_classes, norm_layer=norm),
        regression_head=FCOSRegressionHead(pyramid.channels, 1, norm_layer=norm),
    )
    levels = pyramid.level_numbers
    return OneStage(
        backbone=backbone,
        pyramid=pyramid,
        head=head,
        anchors=Anchors(base=[square(2**level) for level in levels], levels=levels, convention="corner"),
        decode_boxes=from_distances,
        num_classes=num_classes,
        score="root",
    )
