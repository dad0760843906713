"""FCOS: a point a cell, distances to the four sides, and centerness (Tian et al., ICCV 2019).

Torchvision's own head, so that its published weights load; like it, points are the upper left corners of the cells.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead

from mimicdet.assign import by_center
from mimicdet.config.rivals import FcosSettings
from mimicdet.losses.one_stage import Learning, LossSum, Matched, Sums, overlap_losses
from mimicdet.models.anchors import square_anchors
from mimicdet.models.detector import Trunk
from mimicdet.models.one_stage import Branches, HeadMaps, OneStage, OneStageHead, rows


class FcosHead(OneStageHead):
    """Puts torchvision's two branches behind this project's interface."""

    def __init__(self, *, classes: FCOSClassificationHead, boxes: FCOSRegressionHead) -> None:
        super().__init__()
        self.classification_head = classes
        self.regression_head = boxes

    def forward(self, levels: list[Tensor]) -> HeadMaps:
        boxes, centerness = self.regression_head(levels)
        return HeadMaps(self.classification_head(levels), boxes, centerness.squeeze(-1))

    def branches(self) -> Branches:
        classes, boxes = self.classification_head, self.regression_head
        return Branches(
            classes.conv,
            boxes.conv,
            lambda feature: rows(classes.cls_logits(feature), 1),
            lambda feature, level: rows(F.relu(boxes.bbox_reg(feature)), 1),
        )


def from_distances(box_outputs: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
    """Returns boxes at distances (..., 4) left, top, right, bottom of an anchor's centre, in its widths and heights."""
    size = anchors[..., 2:] - anchors[..., :2]
    center = (anchors[..., :2] + anchors[..., 2:]) / 2
    return torch.cat([center - box_outputs[..., :2] * size, center + box_outputs[..., 2:] * size], dim=-1)


def build(settings: FcosSettings.Model, trunk: Trunk, num_classes: int) -> OneStage:
    """Builds FCOS on a trunk."""
    norm = partial(nn.GroupNorm, settings.head_groups) if settings.head_groups else nn.Identity
    classes = FCOSClassificationHead(trunk.channels, 1, num_classes, norm_layer=norm)
    boxes = FCOSRegressionHead(trunk.channels, 1, norm_layer=norm)
    head = FcosHead(classes=classes, boxes=boxes)
    anchors = square_anchors(trunk.level_numbers, side_in_cells=1, convention="corner")
    return OneStage(
        trunk=trunk, head=head, anchors=anchors, decode_boxes=from_distances, num_classes=num_classes, score="root"
    )


def _sums(settings: FcosSettings.Learning, matched: Matched) -> Sums:
    """Focal loss, generalised IoU and centerness over the number of positives (torchvision's)."""
    central, quality = matched.centerness()
    alpha, gamma = settings.focal_alpha, settings.focal_gamma
    return {
        "classification": LossSum(matched.focal_sum(alpha=alpha, gamma=gamma), None),
        "boxes": LossSum(overlap_losses(matched.predicted_boxes(), matched.boxes).sum(), None),
        "quality": LossSum(F.binary_cross_entropy_with_logits(quality, central, reduction="sum"), None),
    }


def learning(settings: FcosSettings.Learning) -> Learning:
    """Returns how FCOS learns by its settings."""
    weights = {"classification": settings.classification, "boxes": settings.boxes, "quality": settings.quality}
    return Learning(partial(by_center, radius=settings.center_radius), partial(_sums, settings), weights)
