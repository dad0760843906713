"""ATSS and GFL: one square anchor a cell, whose statistics choose the positives.

ATSS predicts deltas and centerness (Zhang et al., CVPR 2020). GFL scores classes by the quality of their boxes and
predicts each side as a distribution (Li et al., NeurIPS 2020).
B images, A cells over all levels, K classes, D numbers that a box is predicted by.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimicdet.assign import LEFT_OUT, by_statistics
from mimicdet.config.rivals import AtssSettings, BranchSettings, GflSettings
from mimicdet.losses import one_stage as losses
from mimicdet.models.anchors import square_anchors
from mimicdet.models.detector import PRIOR_LOGIT, Trunk
from mimicdet.models.one_stage import CONVOLUTIONS, BoxDecoder, Branches, HeadMaps, OneStage, OneStageHead, rows
from mimicdet.ops.boxes import decode_deltas, iou_of_pairs

SIDE_IN_CELLS = 8
LONGEST_DISTANCE = 16  # Cells; a side's distribution (GFL) covers 0 to this many
ATSS_STD = (0.1, 0.1, 0.2, 0.2)


class SharedHead(OneStageHead):
    """Predicts once a cell, by a class and a box branch shared over the levels but for a factor each.

    Args:
        box_outputs: D.
        levels: how many there are; the box outputs of each are multiplied by a factor of its own that is learned.
        quality: predict one from the box branch too (centerness).
        groups: of the group normalisation after each convolution; 0: none.
    """

    def __init__(
        self, *, channels: int, num_classes: int, box_outputs: int, levels: int, quality: bool, groups: int
    ) -> None:
        super().__init__()
        self.class_branch = _branch(channels, groups)
        self.box_branch = _branch(channels, groups)
        self.classifier = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.regressor = nn.Conv2d(channels, box_outputs, 3, padding=1)
        self.quality = nn.Conv2d(channels, 1, 3, padding=1) if quality else None
        self.factors = nn.Parameter(torch.ones(levels))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        assert self.classifier.bias is not None
        nn.init.constant_(self.classifier.bias, PRIOR_LOGIT)

    def forward(self, levels: Sequence[Tensor]) -> HeadMaps:
        logits, boxes, quality = [], [], []
        for level, factor in zip(levels, self.factors, strict=True):
            logits.append(rows(self.classifier(self.class_branch(level)), 1))
            hidden = self.box_branch(level)
            boxes.append(rows(self.regressor(hidden) * factor, 1))
            if self.quality is not None:
                quality.append(rows(self.quality(hidden), 1))
        central = torch.cat(quality, 1).squeeze(-1) if quality else None
        return HeadMaps(torch.cat(logits, 1), torch.cat(boxes, 1), central)

    def branches(self) -> Branches:
        return Branches(
            self.class_branch,
            self.box_branch,
            lambda feature: rows(self.classifier(feature), 1),
            lambda feature, level: rows(self.regressor(feature) * self.factors[level], 1),
        )


def _branch(channels: int, groups: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(CONVOLUTIONS):
        norms = [nn.GroupNorm(groups, channels)] if groups else []
        layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=not groups), *norms, nn.ReLU()]
    return nn.Sequential(*layers)


def from_scaled_deltas(box_outputs: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
    """Moves anchors (..., 4) by deltas (..., 4) in standard deviations (ATSS)."""
    return decode_deltas(box_outputs, anchors, std=ATSS_STD)


def from_distributions(box_outputs: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
    """Returns boxes at the means of four distributions (..., 4 (n + 1)) over 0 to n strides (GFL, equation 5)."""
    logits = box_outputs.unflatten(-1, (4, -1))
    values = torch.arange(logits.shape[-1], device=logits.device, dtype=logits.dtype)
    # A sum and no matrix product, which autocast would round to whole pixels
    distances = (logits.softmax(-1) * values).sum(-1) * stride[..., None]
    center = (anchors[..., :2] + anchors[..., 2:]) / 2
    return torch.cat([center - distances[..., :2], center + distances[..., 2:]], dim=-1)


def build_atss(settings: AtssSettings.Model, trunk: Trunk, num_classes: int) -> OneStage:
    """Builds ATSS on a trunk."""
    return _build(partial(SharedHead, box_outputs=4, quality=True), from_scaled_deltas, settings, trunk, num_classes)


def build_gfl(settings: GflSettings.Model, trunk: Trunk, num_classes: int) -> OneStage:
    """Builds GFL on a trunk; its anchors serve the assignment, which is ATSS's."""
    head = partial(SharedHead, box_outputs=4 * (LONGEST_DISTANCE + 1), quality=False)
    return _build(head, from_distributions, settings, trunk, num_classes)


def _build(
    make_head: partial[SharedHead], decode: BoxDecoder, settings: BranchSettings, trunk: Trunk, num_classes: int
) -> OneStage:
    levels, groups = trunk.level_numbers, settings.head_groups
    head = make_head(channels=trunk.channels, num_classes=num_classes, levels=len(levels), groups=groups)
    anchors = square_anchors(levels, side_in_cells=SIDE_IN_CELLS)
    return OneStage(trunk=trunk, head=head, anchors=anchors, decode_boxes=decode, num_classes=num_classes)


def _atss_sums(settings: AtssSettings.Learning, matched: losses.Matched) -> losses.Sums:
    """Focal loss and centerness over the number of positives; generalised IoU weighted by centerness."""
    central, quality = matched.centerness()
    overlap = losses.overlap_losses(matched.predicted_boxes(), matched.boxes)
    alpha, gamma = settings.focal_alpha, settings.focal_gamma
    return {
        "classification": losses.LossSum(matched.focal_sum(alpha=alpha, gamma=gamma), None),
        "boxes": losses.LossSum((overlap * central).sum(), central.sum()),
        "quality": losses.LossSum(F.binary_cross_entropy_with_logits(quality, central, reduction="sum"), None),
    }


def _gfl_sums(settings: GflSettings.Learning, matched: losses.Matched) -> losses.Sums:
    """Quality focal loss over the number of positives; generalised IoU and distributions weighted by the score."""
    _, maps, match, image, anchor, wanted, labels = matched
    boxes = matched.predicted_boxes()
    with torch.no_grad():
        overlap = iou_of_pairs(boxes, wanted)
        weight = maps.head.logits[image, anchor].sigmoid().amax(-1)
    targets = torch.zeros_like(maps.head.logits)
    targets[image, anchor, labels] = overlap
    class_losses = losses.quality_focal_losses(maps.head.logits, targets, gamma=settings.focal_gamma)
    center = matched.centers()
    stride = maps.places.stride[anchor, None]
    distances = torch.cat([center - wanted[:, :2], wanted[:, 2:] - center], dim=-1) / stride
    distributions = losses.distribution_losses(maps.head.box_outputs[image, anchor], distances)
    return {
        "classification": losses.LossSum((class_losses * (match != LEFT_OUT)).sum(), None),
        "boxes": losses.LossSum((losses.overlap_losses(boxes, wanted) * weight).sum(), weight.sum()),
        "distribution": losses.LossSum((distributions * weight).sum(), weight.sum()),
    }


def atss_learning(settings: AtssSettings.Learning) -> losses.Learning:
    """Returns how ATSS learns by its settings."""
    weights = {"classification": settings.classification, "boxes": settings.boxes, "quality": settings.quality}
    rule = partial(by_statistics, candidates=settings.candidates)
    return losses.Learning(rule, partial(_atss_sums, settings), weights)


def gfl_learning(settings: GflSettings.Learning) -> losses.Learning:
    """Returns how GFL learns by its settings."""
    names = {"classification": settings.classification, "boxes": settings.boxes, "distribution": settings.distribution}
    return losses.Learning(partial(by_statistics, candidates=settings.candidates), partial(_gfl_sums, settings), names)
