"""Faster R-CNN (Ren et al., NeurIPS 2015) on this project's backbone and pyramid: the two-stage rival.

Torchvision's own parts and published values: region proposal network, box pooling, box head, box coder. It is
no dense detector: no teacher by its maps, no student, no export. As torchvision's it sees padding: its anchors propose
there too, and boxes at an image's edge are pooled from beyond it.
B images, H W the padded canvas, N proposals of an image, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper

from mimicdet.models.backbone import Backbone
from mimicdet.models.dense import ScoredOutput
from mimicdet.models.pyramid import Pyramid
from mimicdet.models.second_stage import second_stage, second_stage_at
from mimicdet.models.trunk import DIVISOR, pyramid_of
from mimicdet.ops.precision import full_precision

ANCHOR_SIDE_IN_CELLS = 8
"""32 px on P2 .. 512 px on P6."""
RATIOS = (0.5, 1.0, 2.0)
_POOLED = 7
_COARSEST_POOLED = 5
"""P6 proposes and is not pooled from."""


class TwoStage(nn.Module):
    """A detector that proposes boxes, pools each from the pyramid and classifies it.

    In evaluation mode only: torchvision's parts ask for objects in training mode. See :meth:`losses` for that.

    Args:
        backbone, pyramid: built modules.
        rpn, roi_heads: torchvision's, which read the pyramid's levels by name, ``p2`` and so on.
        num_classes: K.
    """

    divisor = DIVISOR

    def __init__(
        self, *, backbone: Backbone, pyramid: Pyramid, rpn: RegionProposalNetwork, roi_heads: RoIHeads, num_classes: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid
        self.rpn = rpn
        self.roi_heads = roi_heads
        self.num_classes = num_classes

    def forward(
        self,
        images: Tensor,
        sizes: Tensor | None = None,
        *,
        dense: bool = False,
        top: int = 1000,
    ) -> ScoredOutput:
        """Predictions for a padded batch; a row is a proposal moved for one class, whose score alone is not 0.

        Args:
            images: (B, 3, H, W) RGB, uint8 or float in 0..1; H and W multiples of 32.
            sizes: (B, 2) int64, height and width of each image inside the canvas; None: the whole canvas.
            dense: all rows; else the ``top`` ones of the highest scores.
            top: R, at most.
        """
        levels, image_list = self._levels(images, sizes)
        with _full_precision(images):
            proposals, _ = self.rpn(image_list, levels)
            logits, boxes, _ = second_stage(self.roi_heads, levels, image_list.image_sizes, proposals)
        counts = [len(p) for p in proposals]
        scores = logits.softmax(-1)[:, 1:]
        pairs = max(counts) * self.num_classes
        rows = pairs if dense else min(pairs, top)
        outputs = [
            _best(scores_i, boxes_i, rows)
            for scores_i, boxes_i in zip(scores.split(counts), boxes.split(counts), strict=True)
        ]
        return ScoredOutput(*(torch.stack(column) for column in zip(*outputs, strict=True)))

    def look(self, images: Tensor, sizes: Tensor, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the second stage says of given boxes.

        Args:
            images, sizes: as for :meth:`forward`.
            boxes: (N, 4) in pixels of the canvas, with an area.
            image: (N,) int64.

        Returns:
            Logits (N, 1 + K), the background first; boxes (N, K, 4); features (N, D).
        """
        levels, image_list = self._levels(images, sizes)
        with _full_precision(images):
            return second_stage_at(self.roi_heads, levels, image_list.image_sizes, boxes, image)

    def losses(self, images: Tensor, sizes: Tensor, targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Torchvision's four losses: ``proposal_objectness``, ``proposal_boxes``, ``classification``, ``boxes``.

        In training mode. The choice of anchors and proposals to learn from is random, from torch's global state.

        Args:
            targets: of each image ``boxes`` (M, 4) in pixels of the canvas and ``labels`` (M,) int64 from 0.
        """
        levels, image_list = self._levels(images, sizes)
        shifted: list[Any] = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]
        with _full_precision(images):
            proposals, first = self.rpn(image_list, levels, shifted)
            _, second = self.roi_heads(levels, proposals, image_list.image_sizes, shifted)
        return {
            "proposal_objectness": first["loss_objectness"], "proposal_boxes": first["loss_rpn_box_reg"],
            "classification": second["loss_classifier"], "boxes": second["loss_box_reg"],
        }  # fmt: skip

    def _levels(self, images: Tensor, sizes: Tensor | None) -> tuple[dict[str, Tensor], ImageList]:
        features = pyramid_of(self.backbone, self.pyramid, images, sizes).levels
        levels = {f"p{l}": full_precision(f) for l, f in zip(self.pyramid.level_numbers, features, strict=True)}
        height, width = images.shape[2:]
        extents = [(height, width)] * len(images) if sizes is None else [(int(h), int(w)) for h, w in sizes.tolist()]
        return levels, ImageList(images, extents)


def _full_precision(images: Tensor) -> torch.autocast:
    """Torchvision's box coder works in the precision of the deltas: in bfloat16 boxes would lie on a grid of pixels."""
    return torch.autocast(images.device.type, enabled=False)


def _best(scores: Tensor, boxes: Tensor, rows: int) -> tuple[Tensor, Tensor, Tensor]:
    """The ``rows`` best of scores (N, K) and boxes (N, K, 4): index, one row of scores each, box; zeros fill up."""
    n, k = scores.shape
    lacking = max(rows - n * k, 0)
    flat = F.pad(scores.flatten(), (0, lacking))
    best = flat.topk(rows)
    one_hot = F.one_hot(best.indices % k, k) * best.values[:, None]
    return best.indices, one_hot, F.pad(boxes.flatten(0, 1), (0, 0, 0, lacking))[best.indices]


def faster_rcnn(*, backbone: Backbone, pyramid: Pyramid, num_classes: int, features: int = 1024) -> TwoStage:
    """Faster R-CNN on a pyramid, with torchvision's values.

    Args:
        num_classes: K.
        features: width of the box head's two layers.
    """
    levels = pyramid.level_numbers
    anchors = AnchorGenerator(
        sizes=tuple((ANCHOR_SIDE_IN_CELLS * 2**l,) for l in levels), aspect_ratios=(RATIOS,) * len(levels)
    )
    rpn = RegionProposalNetwork(
        anchors, RPNHead(pyramid.channels, len(RATIOS)), fg_iou_thresh=0.7, bg_iou_thresh=0.3, batch_size_per_image=256,
        positive_fraction=0.5, pre_nms_top_n={"training": 2000, "testing": 1000},
        post_nms_top_n={"training": 2000, "testing": 1000}, nms_thresh=0.7,
    )  # fmt: skip
    pooled = [l for l in levels if l <= _COARSEST_POOLED]
    pool = MultiScaleRoIAlign(featmap_names=[f"p{l}" for l in pooled], output_size=_POOLED, sampling_ratio=2)
    # Said here, for the pool would guess them once and for all from the first batch, wrongly if its images are low
    pool.scales, pool.map_levels = [2.0**-l for l in pooled], initLevelMapper(pooled[0], pooled[-1])
    roi_heads = RoIHeads(
        pool,
        TwoMLPHead(pyramid.channels * _POOLED**2, features), FastRCNNPredictor(features, num_classes + 1),
        fg_iou_thresh=0.5, bg_iou_thresh=0.5, batch_size_per_image=512, positive_fraction=0.25, bbox_reg_weights=None,
        score_thresh=0.05, nms_thresh=0.5, detections_per_img=100,
    )  # fmt: skip
    return TwoStage(backbone=backbone, pyramid=pyramid, rpn=rpn, roi_heads=roi_heads, num_classes=num_classes)
