"""Faster R-CNN (Ren et al., NeurIPS 2015) on this project's backbone and pyramid: the two-stage rival.

Torchvision's own parts and published values: region proposal network, box pooling, box head, box coder. It is
no dense detector: no teacher by its maps, no student, no export. As torchvision's it sees padding: its anchors propose
there too, and boxes at an image's edge are pooled from beyond it.
B images, H W the padded canvas, N proposals or boxes, K classes, D width of a box's feature.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

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

from mimicdet.models.detector import DetectionModel, Predictions, Trunk
from mimicdet.ops.precision import full_precision

RPN_ANCHOR_SIDE_IN_CELLS = 8  # 32 px on P2 .. 512 px on P6
RATIOS = (0.5, 1.0, 2.0)
_POOLED = 7
_COARSEST_POOLED = 5  # P6 proposes and is not pooled from


class SecondStage(NamedTuple):
    """Holds what a second stage makes of boxes."""

    logits: Tensor  # (N, 1 + K), the background first
    boxes: Tensor  # (N, K, 4), each moved for every class
    features: Tensor  # (N, D) what the logits are computed from


class FasterRcnn(DetectionModel):
    """Proposes boxes, pools each from the pyramid and classifies it.

    In evaluation mode only: torchvision's parts ask for objects in training mode. See :meth:`losses` for that.

    Args:
        rpn, roi_heads: torchvision's, which read the pyramid's levels by name, ``p2`` and so on.
    """

    def __init__(self, *, trunk: Trunk, rpn: RegionProposalNetwork, roi_heads: RoIHeads, num_classes: int) -> None:
        super().__init__(trunk=trunk, num_classes=num_classes)
        self.rpn = rpn
        self.roi_heads = roi_heads

    @property
    def final_head(self) -> nn.Module:
        return self.roi_heads

    def forward(
        self, images: Tensor, sizes: Tensor | None = None, *, dense: bool = False, top: int | None = 1000
    ) -> Predictions:
        """See ``DetectionModel.forward``; a row is a proposal moved for one class, whose score alone is not 0."""
        levels, image_list = self._levels(images, sizes)
        with _full_precision(images):
            proposals, _ = self.rpn(image_list, levels)
            seen = second_stage(self.roi_heads, levels, image_list.image_sizes, proposals)
        counts = [len(p) for p in proposals]
        scores = seen.logits.softmax(-1)[:, 1:]  # (N, K)
        pairs = max(counts) * self.num_classes
        rows = pairs if top is None else min(pairs, top)
        each = zip(scores.split(counts), seen.boxes.split(counts), strict=True)
        outputs = [_best(scores_i, boxes_i, rows) for scores_i, boxes_i in each]
        return Predictions(*(torch.stack(column) for column in zip(*outputs, strict=True)))

    def second_stage_at(self, images: Tensor, sizes: Tensor, boxes: Tensor, image: Tensor) -> SecondStage:
        """Returns what the second stage makes of boxes (N, 4) with an area, in the canvas of each's image (N,)."""
        levels, image_list = self._levels(images, sizes)
        with _full_precision(images):
            return second_stage_at(self.roi_heads, levels, image_list.image_sizes, boxes, image)

    def losses(self, images: Tensor, sizes: Tensor, targets: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Returns torchvision's losses ``proposal_objectness``, ``proposal_boxes``, ``classification``, ``boxes``.

        In training mode. The choice of anchors and proposals to learn from is random, from torch's global state.

        Args:
            targets: of each image ``boxes`` (M, 4) in pixels of the canvas and ``labels`` (M,) int64 from 0.
        """
        levels, image_list = self._levels(images, sizes)
        shifted: list[Any] = [{"boxes": t["boxes"], "labels": t["labels"] + 1} for t in targets]
        with _full_precision(images):
            proposals, first = self.rpn(image_list, levels, shifted)
            _, second = self.roi_heads(levels, proposals, image_list.image_sizes, shifted)
        proposal = {"proposal_objectness": first["loss_objectness"], "proposal_boxes": first["loss_rpn_box_reg"]}
        return proposal | {"classification": second["loss_classifier"], "boxes": second["loss_box_reg"]}

    def _levels(self, images: Tensor, sizes: Tensor | None) -> tuple[dict[str, Tensor], ImageList]:
        features = self.trunk(images, sizes).levels
        levels = {f"p{l}": full_precision(f) for l, f in zip(self.trunk.level_numbers, features, strict=True)}
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


def second_stage(
    roi_heads: RoIHeads, levels: Mapping[str, Tensor], shapes: Sequence[tuple[int, int]], boxes: Sequence[Tensor]
) -> SecondStage:
    """Returns what torchvision's ``RoIHeads`` makes of each image's boxes (N_i, 4), image by image.

    Args:
        levels: the pyramid, by the names that ``roi_heads`` reads.
        shapes: height and width of each image.
    """
    features = roi_heads.box_head(roi_heads.box_roi_pool(levels, boxes, shapes))
    logits, deltas = roi_heads.box_predictor(features)
    moved = roi_heads.box_coder.decode(full_precision(deltas), boxes)  # (N, 1 + K, 4); in half precision pixels round
    return SecondStage(logits, moved[:, 1:], features)


def second_stage_at(
    roi_heads: RoIHeads, levels: Mapping[str, Tensor], shapes: Sequence[tuple[int, int]], boxes: Tensor, image: Tensor
) -> SecondStage:
    """Returns what ``RoIHeads`` makes of boxes (N, 4) in any order, each of the image ``image`` (N,) int64."""
    order = image.argsort(stable=True)
    lists = [boxes[order][image[order] == i] for i in range(len(shapes))]
    seen = second_stage(roi_heads, levels, shapes, lists)
    back = torch.empty_like(order).index_put((order,), torch.arange(len(order), device=order.device))
    return SecondStage(*(field[back] for field in seen))


def faster_rcnn(*, trunk: Trunk, num_classes: int, features: int) -> FasterRcnn:
    """Builds Faster R-CNN on a trunk, with torchvision's values; ``features`` is the width of the box head's layers."""
    levels = trunk.level_numbers
    sides = tuple((RPN_ANCHOR_SIDE_IN_CELLS * 2**l,) for l in levels)
    anchors = AnchorGenerator(sizes=sides, aspect_ratios=(RATIOS,) * len(levels))
    counts = {"training": 2000, "testing": 1000}
    sampling = {"fg_iou_thresh": 0.7, "bg_iou_thresh": 0.3, "batch_size_per_image": 256, "positive_fraction": 0.5}
    kept = {"pre_nms_top_n": counts, "post_nms_top_n": counts, "nms_thresh": 0.7}
    rpn = RegionProposalNetwork(anchors, RPNHead(trunk.channels, len(RATIOS)), **sampling, **kept)
    pooled = [l for l in levels if l <= _COARSEST_POOLED]
    pool = MultiScaleRoIAlign(featmap_names=[f"p{l}" for l in pooled], output_size=_POOLED, sampling_ratio=2)
    # Said here, for the pool would guess them once and for all from the first batch, wrongly if its images are low
    pool.scales, pool.map_levels = [2.0**-l for l in pooled], initLevelMapper(pooled[0], pooled[-1])
    layers = (TwoMLPHead(trunk.channels * _POOLED**2, features), FastRCNNPredictor(features, num_classes + 1))
    sampling = {"fg_iou_thresh": 0.5, "bg_iou_thresh": 0.5, "batch_size_per_image": 512, "positive_fraction": 0.25}
    kept = {"bbox_reg_weights": None, "score_thresh": 0.05, "nms_thresh": 0.5, "detections_per_img": 100}
    roi_heads = RoIHeads(pool, *layers, **sampling, **kept)
    return FasterRcnn(trunk=trunk, rpn=rpn, roi_heads=roi_heads, num_classes=num_classes)
