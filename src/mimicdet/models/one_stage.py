"""Detectors that are a head on every level of a pyramid: RetinaNet, FCOS, ATSS and GFL differ in parts alone.

B images, H W the padded canvas, A anchors over all levels, K classes, D numbers that a box is predicted by.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mimicdet.models.anchors import Anchors
from mimicdet.models.branches import Branches
from mimicdet.models.detector import DenseMaps, DetectionModel, Places, Predictions
from mimicdet.models.trunk import Trunk, level_shapes
from mimicdet.ops.precision import full_precision


class HeadMaps(NamedTuple):
    """Holds a head's predictions at every anchor."""

    logits: Tensor  # (B, A, K)
    box_outputs: Tensor  # (B, A, D) what the box decoder reads
    quality: Tensor | None  # (B, A) logits by whose sigmoid scores are multiplied (centerness), or None


class OneStageHead(nn.Module):
    """Defines what is asked of the head of RetinaNet, FCOS, ATSS and GFL."""

    def forward(self, levels: list[Tensor]) -> HeadMaps:
        """Pyramid levels (B, C, H_l, W_l) -> predictions at every anchor."""
        raise NotImplementedError

    def branches(self) -> Branches:
        """Its two branches of convolutions and what follows them: where CrossKD cuts it."""
        raise NotImplementedError


class BoxDecoder(Protocol):
    """Makes boxes of a head's box outputs."""

    def __call__(self, box_outputs: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
        """(..., D), (..., 4), (...) -> boxes (..., 4) x1 y1 x2 y2 in pixels."""
        ...


class OneStageMaps(NamedTuple):
    """Holds what a detector predicts for a batch before any choice is made; float32."""

    features: tuple[Tensor, ...]  # (B, C, H_l, W_l) pyramid levels
    places: Places
    valid: Tensor  # (B, A) bool, False on padding
    head: HeadMaps


class OneStage(DetectionModel):
    """Trunk and one head that is shared over the levels.

    Args:
        trunk: built; the pyramid's levels are the head's.
        head: levels (list of (B, C, H_l, W_l)) -> ``HeadMaps``.
        anchors: what boxes are predicted from.
        decode_boxes: makes boxes of the head's outputs.
        num_classes: K.
        score: how a quality logit and a class logit make a score: their product's square root (``root``: torchvision's
            FCOS), or their product (ATSS).
    """

    def __init__(
        self,
        *,
        trunk: Trunk,
        head: OneStageHead,
        anchors: Anchors,
        decode_boxes: BoxDecoder,
        num_classes: int,
        score: Literal["root", "product"] = "product",
    ) -> None:
        super().__init__(trunk=trunk, num_classes=num_classes)
        self.head = head
        self.anchors = anchors
        self.decode_boxes = decode_boxes
        self.score = score

    @property
    def final_head(self) -> OneStageHead:
        return self.head

    def forward(
        self, images: Tensor, sizes: Tensor | None = None, *, dense: bool = False, top: int | None = 1000
    ) -> Predictions:
        """See ``DetectionModel.forward``: boxes of the ``top`` anchors whose best class scores highest, or of all."""
        maps = self.maps(images, sizes)
        scores, outputs, places = self.scores(maps), maps.head.box_outputs, maps.places
        b, a, k = scores.shape
        if top is None:
            positions = torch.arange(a, device=scores.device).expand(b, a)
        else:
            positions = scores.amax(-1).topk(min(top, a), dim=1).indices
        index = positions[..., None]
        if dense:
            boxes = self.decode_boxes(outputs, places.anchors, places.stride).gather(1, index.expand(-1, -1, 4))
        else:
            chosen = outputs.gather(1, index.expand(-1, -1, outputs.shape[2]))  # (B, R, D)
            boxes = self.decode_boxes(chosen, places.anchors[positions], places.stride[positions])
        return Predictions(positions, scores.gather(1, index.expand(-1, -1, k)), boxes)

    def maps(self, images: Tensor, sizes: Tensor | None = None) -> OneStageMaps:
        """Trunk and head; arguments as for :meth:`forward`."""
        features = self.trunk(images, sizes).levels
        shapes = [(level.shape[2], level.shape[3]) for level in features]
        places = self.anchors(shapes, (images.shape[2], images.shape[3]))
        logits, box_outputs, quality = self.head(list(features))
        quality = None if quality is None else full_precision(quality)
        head = HeadMaps(full_precision(logits), full_precision(box_outputs), quality)
        valid = torch.ones_like(head.logits[..., 0], dtype=torch.bool) if sizes is None else places.valid(sizes)
        return OneStageMaps(features, places, valid, head)

    def places_of(self, images: Tensor) -> Places:
        """The anchors of a padded batch (B, 3, H, W), without computing what is predicted there."""
        height, width = images.shape[2:]
        places: Places = self.anchors(level_shapes(height, width, self.trunk.level_numbers), (height, width))
        return places

    def scores(self, maps: OneStageMaps) -> Tensor:
        """(B, A, K) in 0..1, 0 on padding."""
        scores = maps.head.logits.sigmoid()
        if maps.head.quality is not None:
            scores = scores * maps.head.quality.sigmoid()[..., None]
            if self.score == "root":
                scores = scores.sqrt()
        return scores * maps.valid[..., None]

    def dense_maps(self, images: Tensor, sizes: Tensor | None = None) -> DenseMaps:
        """See ``DetectionModel.dense_maps``. The logits are the classifier's, without the quality."""
        return self.dense_maps_of(self.maps(images, sizes))

    def dense_maps_of(self, maps: OneStageMaps) -> DenseMaps:
        """The same from :meth:`maps`."""
        return DenseMaps(
            features=maps.features,
            level_numbers=self.trunk.level_numbers,
            per_cell=self.anchors.per_cell,
            logits=maps.head.logits,
            boxes=self.decode_boxes(maps.head.box_outputs, maps.places.anchors, maps.places.stride),
            valid=maps.valid,
        )
