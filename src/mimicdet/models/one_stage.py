"""Detectors that are a head on every level of a pyramid: RetinaNet, FCOS, ATSS and GFL differ in parts alone.

B images, H W the canvas, A anchors over all levels, n of a cell, K classes, D numbers that a box is predicted by.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from mimicdet.models.anchors import Anchors
from mimicdet.models.detector import DenseMaps, DetectionModel, Places, Predictions, Trunk, at_rows
from mimicdet.ops.precision import full_precision

CONVOLUTIONS = 4  # Of each branch of a head


class Branches(NamedTuple):
    """Holds the parts of a head, its own modules."""

    class_convs: nn.Sequential
    box_convs: nn.Sequential
    finish_class: Callable[[Tensor], Tensor]  # (B, C, H, W) -> (B, H W n, K) logits
    finish_boxes: Callable[[Tensor, int], Tensor]  # (B, C, H, W), index of the level -> (B, H W n, D)


class Hidden(NamedTuple):
    """Holds the features in a head before the last convolution of each branch, level by level."""

    class_features: list[Tensor]  # (B, C, H_l, W_l)
    box_features: list[Tensor]


def rows(feature: Tensor, per_cell: int) -> Tensor:
    """Returns (B, H W n, D), the predictions of a map (B, n D, H, W) anchor by anchor."""
    b, _, h, w = feature.shape
    return feature.reshape(b, per_cell, -1, h, w).permute(0, 3, 4, 1, 2).flatten(1, 3)


def _before_last(convs: nn.Sequential) -> int:
    """Where the last convolution begins, which may be one module with its normalisation and activation, or three."""
    return (CONVOLUTIONS - 1) * (len(convs) // CONVOLUTIONS)


def first_part(branches: Branches, levels: Sequence[Tensor]) -> Hidden:
    """Returns the features of pyramid levels (B, C, H_l, W_l) in the head where CrossKD cuts it."""
    class_convs, box_convs = (convs[: _before_last(convs)] for convs in branches[:2])
    return Hidden([class_convs(level) for level in levels], [box_convs(level) for level in levels])


def second_part(branches: Branches, hidden: Hidden) -> tuple[Tensor, Tensor]:
    """Returns logits (B, A, K) and box outputs (B, A, D) of what :func:`first_part` gives."""
    class_convs, box_convs = (convs[_before_last(convs) :] for convs in branches[:2])
    logits = [branches.finish_class(class_convs(feature)) for feature in hidden.class_features]
    boxes = [branches.finish_boxes(box_convs(feature), i) for i, feature in enumerate(hidden.box_features)]
    return torch.cat(logits, dim=1), torch.cat(boxes, dim=1)


class HeadMaps(NamedTuple):
    """Holds a head's predictions at every anchor."""

    logits: Tensor  # (B, A, K)
    box_outputs: Tensor  # (B, A, D) what the box decoder reads
    quality: Tensor | None  # (B, A) logits by whose sigmoid scores are multiplied (centerness), or None


class OneStageHead(nn.Module):
    """Defines what is asked of the head of RetinaNet, FCOS, ATSS and GFL."""

    def forward(self, levels: list[Tensor]) -> HeadMaps:
        """Returns predictions at every anchor of pyramid levels (B, C, H_l, W_l)."""
        raise NotImplementedError

    def branches(self) -> Branches:
        """Returns its two branches of convolutions and what follows them: where CrossKD cuts it."""
        raise NotImplementedError


BoxDecoder = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Box outputs (..., D), anchors (..., 4), stride (...) -> boxes (..., 4) x1 y1 x2 y2 in pixels."""


class OneStageMaps(NamedTuple):
    """Holds what a detector predicts for a batch before any choice is made; float32."""

    features: tuple[Tensor, ...]  # (B, C, H_l, W_l) pyramid levels
    places: Places
    valid: Tensor  # (B, A) bool, False on padding
    head: HeadMaps


class OneStage(DetectionModel):
    """Detects with one head that is shared over the levels.

    Args:
        trunk, head: built; the pyramid's levels are the head's.
        anchors: what boxes are predicted from.
        decode_boxes: makes boxes of the head's outputs.
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
        b, a, _ = scores.shape
        if top is None:
            positions = torch.arange(a, device=scores.device).expand(b, a)
        else:
            positions = scores.amax(-1).topk(min(top, a), dim=1).indices
        if dense:
            boxes = at_rows(self.decode_boxes(outputs, places.anchors, places.stride), positions)
        else:
            chosen = at_rows(outputs, positions)  # (B, R, D)
            boxes = self.decode_boxes(chosen, places.anchors[positions], places.stride[positions])
        return Predictions(positions, at_rows(scores, positions), boxes)

    def maps(self, images: Tensor, sizes: Tensor | None = None) -> OneStageMaps:
        """Runs trunk and head; arguments as for :meth:`forward`."""
        features = self.trunk(images, sizes).levels
        shapes = [(level.shape[2], level.shape[3]) for level in features]
        places = self.anchors(shapes, (images.shape[2], images.shape[3]))
        logits, box_outputs, quality = self.head(list(features))
        quality = None if quality is None else full_precision(quality)
        head = HeadMaps(full_precision(logits), full_precision(box_outputs), quality)
        valid = torch.ones_like(head.logits[..., 0], dtype=torch.bool) if sizes is None else places.valid(sizes)
        return OneStageMaps(features, places, valid, head)

    def places_of(self, images: Tensor) -> Places:
        """Returns the anchors of a padded batch (B, 3, H, W), without computing what is predicted there."""
        return self.anchors.on_canvas(images)

    def scores(self, maps: OneStageMaps) -> Tensor:
        """Returns scores (B, A, K) in 0..1, 0 on padding."""
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
        """Returns the dense maps of what :meth:`maps` gives."""
        levels, per_cell = self.trunk.level_numbers, self.anchors.per_cell
        boxes = self.decode_boxes(maps.head.box_outputs, maps.places.anchors, maps.places.stride)
        return DenseMaps(maps.features, levels, per_cell, maps.head.logits, boxes, maps.valid)
