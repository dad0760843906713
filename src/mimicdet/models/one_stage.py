"""Detectors that are a head on every level of a pyramid: RetinaNet, FCOS, ATSS and GFL differ in parts alone.

B images, H W the padded canvas, A anchors over all levels, K classes, D numbers that a box is predicted by.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mimicdet.models.anchors import Anchors, Places
from mimicdet.models.backbone import Backbone
from mimicdet.models.dense import DenseMaps, ScoredOutput
from mimicdet.models.pyramid import Pyramid
from mimicdet.models.trunk import DIVISOR, level_shapes, pyramid_of
from mimicdet.ops.precision import full_precision


class HeadMaps(NamedTuple):
    """A head's predictions at every anchor."""

    logits: Tensor  # (B, A, K)
    box_outputs: Tensor  # (B, A, D) what the box decoder reads
    quality: Tensor | None  # (B, A) logits by whose sigmoid scores are multiplied (centerness), or None


class BoxDecoder(Protocol):
    def __call__(self, box_outputs: Tensor, anchors: Tensor, stride: Tensor) -> Tensor:
        """(..., D), (..., 4), (...) -> boxes (..., 4) x1 y1 x2 y2 in pixels."""
        ...


class OneStageMaps(NamedTuple):
    """What a detector says of a batch before any choice is made; float32."""

    features: tuple[Tensor, ...]  # pyramid levels
    places: Places
    valid: Tensor  # (B, A) bool, False on padding
    head: HeadMaps


class OneStage(nn.Module):
    """Backbone, pyramid, one head shared over the levels.

    Args:
        backbone, pyramid: built modules; the pyramid's levels are the head's.
        head: levels (list of (B, C, H_l, W_l)) -> ``HeadMaps``.
        anchors: what boxes are predicted from.
        decode_boxes: makes boxes of the head's outputs.
        num_classes: K.
        score: how a quality logit and a class logit make a score: their product's square root (``root``: torchvision's
            FCOS), or their product (ATSS).
    """

    divisor = DIVISOR

    def __init__(
        self,
        *,
        backbone: Backbone,
        pyramid: Pyramid,
        head: nn.Module,
        anchors: Anchors,
        decode_boxes: BoxDecoder,
        num_classes: int,
        score: Literal["root", "product"] = "product",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid
        self.head = head
        self.anchors = anchors
        self.decode_boxes = decode_boxes
        self.num_classes = num_classes
        self.score = score

    def forward(
        self,
        images: Tensor,
        sizes: Tensor | None = None,
        *,
        dense: bool = False,
        top: int = 1000,
    ) -> ScoredOutput:
        """Predictions for a padded batch.

        Args:
            images: (B, 3, H, W) RGB, uint8 or float in 0..1; H and W multiples of 32.
            sizes: (B, 2) int64, height and width of each image inside the canvas; None: the whole canvas.
            dense: boxes of all anchors; else of the ``top`` ones whose best class scores highest.
            top: R, at most A.
        """
        maps = self.maps(images, sizes)
        scores = self.scores(maps)
        b, a, k = scores.shape
        if dense:
            positions = torch.arange(a, device=scores.device).expand(b, a)
            box_outputs = maps.head.box_outputs
        else:
            positions = scores.amax(-1).topk(min(top, a), dim=1).indices
            scores = scores.gather(1, positions[..., None].expand(-1, -1, k))
            box_outputs = maps.head.box_outputs.gather(
                1, positions[..., None].expand(-1, -1, maps.head.box_outputs.shape[2])
            )
        boxes = self.decode_boxes(box_outputs, maps.places.anchors[positions], maps.places.stride[positions])
        return ScoredOutput(positions, scores, boxes)

    def maps(self, images: Tensor, sizes: Tensor | None = None) -> OneStageMaps:
        """Pyramid and head; arguments as for :meth:`forward`."""
        features = pyramid_of(self.backbone, self.pyramid, images, sizes).levels
        shapes = [(level.shape[2], level.shape[3]) for level in features]
        places = self.anchors(shapes, (images.shape[2], images.shape[3]))
        head = self.head(list(features))
        full = [None if part is None else full_precision(part) for part in head]
        valid = full_precision(head.logits[..., 0]).new_ones(head.logits.shape[:2], dtype=torch.bool)
        if sizes is not None:
            valid = places.valid(sizes)
        return OneStageMaps(features, places, valid, HeadMaps(*full))  # type: ignore[arg-type]

    def places_of(self, images: Tensor) -> Places:
        """The anchors of a padded batch (B, 3, H, W), without computing what is predicted there."""
        height, width = images.shape[2:]
        return self.anchors(level_shapes(height, width, self.pyramid.level_numbers), (height, width))

    def scores(self, maps: OneStageMaps) -> Tensor:
        """(B, A, K) in 0..1, 0 on padding."""
        scores = maps.head.logits.sigmoid()
        if maps.head.quality is not None:
            scores = scores * maps.head.quality.sigmoid()[..., None]
            if self.score == "root":
                scores = scores.sqrt()
        return scores * maps.valid[..., None]

    def dense_maps(self, images: Tensor, sizes: Tensor | None = None) -> DenseMaps:
        """See ``mimicdet.models.dense.DenseDetector``. The logits are the classifier's, without the quality."""
        return self.dense_maps_of(self.maps(images, sizes))

    def dense_maps_of(self, maps: OneStageMaps) -> DenseMaps:
        """The same from :meth:`maps`."""
        return DenseMaps(
            features=maps.features,
            level_numbers=self.pyramid.level_numbers,
            per_cell=self.anchors.per_cell,
            logits=maps.head.logits,
            boxes=self.decode_boxes(maps.head.box_outputs, maps.places.anchors, maps.places.stride),
            valid=maps.valid,
        )
