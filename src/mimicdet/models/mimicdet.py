"""MimicDet as it ships: backbone, pyramid, refinement module, S-head (section 3).

The T-head is not here: it belongs to the training task (``mimicdet.tasks.mimic``), so a shipped state dict holds no
teacher by construction.
B images, H W the padded canvas, A positions, R positions read, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mimicdet.models.anchors import square_anchors
from mimicdet.models.detector import DenseMaps, DetectionModel, Places, Predictions, log_odds
from mimicdet.models.pyramid import PyramidFeatures
from mimicdet.models.refinement import ANCHOR_SIDE_IN_CELLS, Refinement
from mimicdet.models.s_head import HeadOutput, SHead
from mimicdet.models.trunk import Trunk, level_shapes
from mimicdet.ops.boxes import decode_deltas

REFINEMENT_STD = (1.0, 1.0, 1.0, 1.0)
"""The refinement module's deltas are raw: they also feed the offset micro-network."""
HEAD_STD = (0.1, 0.1, 0.2, 0.2)
"""Of the S-head's and T-head's deltas on the adjusted box (Faster R-CNN)."""


class Refined(NamedTuple):
    """Holds what trunk and refinement module give on a batch."""

    pyramid: PyramidFeatures
    places: Places
    valid: Tensor  # (B, A) bool, False on padding
    objectness: Tensor  # (B, A) logits
    deltas: Tensor  # (B, A, 4) raw
    adjusted_boxes: Tensor  # (B, A, 4) anchors moved by the detached deltas, pixels of the padded input

    def best(self, top: int | None) -> Tensor:
        """(B, R) int64, the ``top`` positions of each image by refinement score, padding last; None: all, in order."""
        b, a = self.objectness.shape
        if top is None:
            return torch.arange(a, device=self.objectness.device).expand(b, a)
        objectness = self.objectness.masked_fill(~self.valid, float("-inf"))
        return objectness.topk(min(top, a), dim=1).indices

    def predictions(self, positions: Tensor, logits: Tensor, deltas: Tensor) -> Predictions:
        """What a head makes of ``positions`` (B, R): its logits (B, R, K+1) and deltas (B, R, 4) on adjusted boxes."""
        inside = self.valid.gather(1, positions)  # (B, R)
        base = self.adjusted_boxes.gather(1, positions[..., None].expand(-1, -1, 4))  # (B, R, 4)
        return Predictions(
            positions=positions,
            scores=logits.softmax(-1)[..., :-1].masked_fill(~inside[..., None], 0),
            boxes=decode_deltas(deltas, base, std=HEAD_STD),
        )


class MimicDet(DetectionModel):
    """A one-stage detector with one square anchor a position, adjusted once and classified at its adjusted place.

    Args:
        trunk, refinement, s_head: built modules; the pyramid's levels are the heads' levels.
    """

    def __init__(self, *, trunk: Trunk, refinement: Refinement, s_head: SHead) -> None:
        super().__init__(trunk=trunk, num_classes=s_head.num_classes)
        self.refinement = refinement
        self.s_head = s_head
        self.anchors = square_anchors(trunk.level_numbers, side_in_cells=ANCHOR_SIDE_IN_CELLS)

    @property
    def final_head(self) -> SHead:
        return self.s_head

    def forward(
        self, images: Tensor, sizes: Tensor | None = None, *, dense: bool = False, top: int | None = 1000
    ) -> Predictions:
        """See ``DetectionModel.forward``: the S-head at the ``top`` positions by refinement score, or everywhere."""
        return self.predict(self.refine(images, sizes), dense=dense, top=top)

    def predict(self, refined: Refined, *, dense: bool = False, top: int | None = 1000) -> Predictions:
        """The S-head on what :meth:`refine` gives; arguments as for :meth:`forward`."""
        positions = refined.best(top)
        if dense:
            head = self.s_head.dense(refined.pyramid.levels, refined.deltas)
            logits, deltas = (
                field.gather(1, positions[..., None].expand(-1, -1, field.shape[2])) for field in head[:2]
            )
        else:
            logits, deltas = self.s_head_at(refined, positions)[:2]
        return refined.predictions(positions, logits, deltas)

    def dense_maps(self, images: Tensor, sizes: Tensor | None = None) -> DenseMaps:
        """See ``DetectionModel.dense_maps``; the S-head is computed everywhere."""
        return self.dense_maps_of(self.refine(images, sizes))

    def dense_maps_of(self, refined: Refined) -> DenseMaps:
        """The same from what :meth:`refine` gives. A class's logit is the log-odds of its softmax score."""
        head = self.s_head.dense(refined.pyramid.levels, refined.deltas)
        return DenseMaps(
            features=refined.pyramid.levels,
            level_numbers=self.trunk.level_numbers,
            per_cell=1,
            logits=log_odds(head.logits.log_softmax(-1)[..., :-1]),
            boxes=decode_deltas(head.deltas, refined.adjusted_boxes, std=HEAD_STD),
            valid=refined.valid,
        )

    def refine(self, images: Tensor, sizes: Tensor | None = None) -> Refined:
        """Trunk and refinement module; arguments as for :meth:`forward`."""
        return self.refine_pyramid(self.trunk(images, sizes), sizes)

    def refine_pyramid(self, pyramid: PyramidFeatures, sizes: Tensor | None = None) -> Refined:
        """The refinement module on a pyramid; ``sizes`` as for :meth:`forward`."""
        shapes = [(level.shape[2], level.shape[3]) for level in pyramid.levels]
        places = self.anchors(shapes)
        objectness, deltas = self.refinement(pyramid.levels)  # (B, A), (B, A, 4)
        valid = torch.ones_like(objectness, dtype=torch.bool) if sizes is None else places.valid(sizes)
        adjusted = decode_deltas(deltas.detach(), places.anchors.to(deltas.dtype), std=REFINEMENT_STD)
        return Refined(pyramid, places, valid, objectness, deltas, adjusted)

    def places_of(self, images: Tensor) -> Places:
        """Where the predictions for a padded batch (B, 3, H, W) lie, without computing them."""
        height, width = images.shape[2:]
        places: Places = self.anchors(level_shapes(height, width, self.trunk.level_numbers))
        return places

    def s_head_at(self, refined: Refined, positions: Tensor) -> HeadOutput:
        """The S-head at ``positions`` (B, R) int64; outputs (B, R, ...)."""
        b, r = positions.shape
        rows = positions + torch.arange(b, device=positions.device)[:, None] * refined.objectness.shape[1]
        flat = self.s_head.at(refined.pyramid.levels, refined.deltas, refined.places, rows.flatten())
        return HeadOutput(*(field.reshape(b, r, -1) for field in flat))
