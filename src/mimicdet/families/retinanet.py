"""RetinaNet: nine anchors a cell, a class and a box branch of four convolutions (Lin et al., ICCV 2017).

Torchvision's own head, so that its published weights load.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead

from mimicdet.assign import by_overlap
from mimicdet.config.rivals import RetinaNetSettings
from mimicdet.losses.one_stage import Learning, LossSum, Matched, Sums
from mimicdet.models.anchors import Anchors, base_boxes
from mimicdet.models.detector import Trunk
from mimicdet.models.one_stage import Branches, HeadMaps, OneStage, OneStageHead, rows
from mimicdet.ops.boxes import decode_deltas, encode_deltas

RATIOS = (0.5, 1.0, 2.0)
ANCHORS = 9  # Of a cell
FINEST_SIDE = 4  # Side of the smallest anchors of a level, in cells
RAW = (1.0, 1.0, 1.0, 1.0)  # Deltas are not divided by standard deviations


class RetinaHead(OneStageHead):
    """Puts torchvision's two branches behind this project's interface."""

    def __init__(self, *, classes: RetinaNetClassificationHead, boxes: RetinaNetRegressionHead) -> None:
        super().__init__()
        self.classification_head = classes
        self.regression_head = boxes

    def forward(self, levels: list[Tensor]) -> HeadMaps:
        return HeadMaps(self.classification_head(levels), self.regression_head(levels), None)

    def branches(self) -> Branches:
        classes, boxes = self.classification_head, self.regression_head
        return Branches(
            classes.conv,
            boxes.conv,
            lambda feature: rows(classes.cls_logits(feature), ANCHORS),
            lambda feature, level: rows(boxes.bbox_reg(feature), ANCHORS),
        )


def retina_anchors(levels: Sequence[int]) -> Anchors:
    """Returns three sizes, 2^0, 2^(1/3) and 2^(2/3) times four cells in whole pixels, in three shapes."""
    sides = [FINEST_SIDE * 2**level for level in levels]
    base = [base_boxes([side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))], RATIOS) for side in sides]
    return Anchors(base=base, levels=levels, convention="corner")


def from_deltas(box_outputs: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
    """Moves anchors (..., 4) by deltas (..., 4)."""
    return decode_deltas(box_outputs, anchors, std=RAW)


def build(settings: RetinaNetSettings.Model, trunk: Trunk, num_classes: int) -> OneStage:
    """Builds RetinaNet on a trunk."""
    norm = partial(nn.GroupNorm, settings.head_groups) if settings.head_groups else None
    classes = RetinaNetClassificationHead(trunk.channels, ANCHORS, num_classes, norm_layer=norm)
    boxes = RetinaNetRegressionHead(trunk.channels, ANCHORS, norm_layer=norm)
    head = RetinaHead(classes=classes, boxes=boxes)
    anchors = retina_anchors(trunk.level_numbers)
    return OneStage(trunk=trunk, head=head, anchors=anchors, decode_boxes=from_deltas, num_classes=num_classes)


def _sums(settings: RetinaNetSettings.Learning, matched: Matched) -> Sums:
    """Focal loss, and L1 on the positives' deltas, over the batch's positives (torchvision: each image's)."""
    wanted = encode_deltas(matched.boxes, matched.maps.places.anchors[matched.anchor], std=RAW)
    deltas = matched.maps.head.box_outputs[matched.image, matched.anchor]
    alpha, gamma = settings.focal_alpha, settings.focal_gamma
    return {
        "classification": LossSum(matched.focal_sum(alpha=alpha, gamma=gamma), None),
        "boxes": LossSum((deltas - wanted).abs().sum(), None),
    }


def learning(settings: RetinaNetSettings.Learning) -> Learning:
    """Returns how RetinaNet learns by its settings."""
    match = partial(by_overlap, positive_iou=settings.positive_iou, negative_iou=settings.negative_iou)
    weights = {"classification": settings.classification, "boxes": settings.boxes}
    return Learning(match, partial(_sums, settings), weights)
