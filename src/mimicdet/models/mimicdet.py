"""MimicDet as it ships: trunk, refinement module, S-head (section 3).

The T-head is not here: it belongs to the training task (``mimicdet.tasks.mimic``), so a shipped state dict holds no
teacher by construction.
B images, H W the padded canvas, A positions, R positions read, K classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimicdet.models.anchors import ANCHOR_SIDE_IN_CELLS, square_anchors
from mimicdet.models.detector import (
    PRIOR_LOGIT,
    DenseMaps,
    DetectionModel,
    Places,
    Predictions,
    Trunk,
    at_rows,
    log_odds,
)
from mimicdet.models.pyramid import PyramidFeatures
from mimicdet.models.s_head import HeadOutput, SHead
from mimicdet.ops.boxes import decode_deltas
from mimicdet.ops.precision import full_precision

REFINEMENT_STD = (1.0, 1.0, 1.0, 1.0)  # The refinement module's deltas are raw: they also feed the offset micro-network
HEAD_STD = (0.1, 0.1, 0.2, 0.2)  # Of the S-head's and T-head's deltas on the adjusted box (Faster R-CNN)


class Refinement(nn.Module):
    """Filters out easy negatives and adjusts the anchors, without regard to classes (section 3.2).

    One 3x3 convolution and two sibling 1x1 ones, shared over the levels.
    """

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, 1, 1)
        self.deltas = nn.Conv2d(channels, 4, 1)
        for layer in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        assert self.objectness.bias is not None
        # All anchors are trained on, nearly all negative: start them at p = 0.01 (focal-loss paper)
        nn.init.constant_(self.objectness.bias, PRIOR_LOGIT)

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Returns objectness logits (B, A) and raw deltas (B, A, 4), float32, of levels (B, C, H_l, W_l)."""
        objectness, deltas = [], []
        for level in levels:
            hidden = F.relu(self.conv(level))
            objectness.append(self.objectness(hidden).flatten(1))
            deltas.append(self.deltas(hidden).flatten(2).transpose(1, 2))
        return full_precision(torch.cat(objectness, dim=1)), full_precision(torch.cat(deltas, dim=1))


class Refined(NamedTuple):
    """Holds what trunk and refinement module give on a batch."""

    pyramid: PyramidFeatures
    places: Places
    valid: Tensor  # (B, A) bool, False on padding
    objectness: Tensor  # (B, A) logits
    deltas: Tensor  # (B, A, 4) raw
    adjusted_boxes: Tensor  # (B, A, 4) anchors moved by the detached deltas, pixels of the padded input

    def best(self, top: int | None) -> Tensor:
        """Returns (B, R) int64, each image's ``top`` positions by objectness, padding last; None: all, in order."""
        b, a = self.objectness.shape
        if top is None:
            return torch.arange(a, device=self.objectness.device).expand(b, a)
        objectness = self.objectness.masked_fill(~self.valid, float("-inf"))
        return objectness.topk(min(top, a), dim=1).indices

    def predictions(self, positions: Tensor, logits: Tensor, deltas: Tensor) -> Predictions:
        """Makes predictions of a head's logits (B, R, K+1) and deltas (B, R, 4) at ``positions`` (B, R)."""
        outside = ~self.valid.gather(1, positions)  # (B, R)
        scores = logits.softmax(-1)[..., :-1].masked_fill(outside[..., None], 0)
        boxes = decode_deltas(deltas, at_rows(self.adjusted_boxes, positions), std=HEAD_STD)
        return Predictions(positions, scores, boxes)


class MimicDet(DetectionModel):
    """Detects in one stage: one square anchor a position is adjusted once and classified at its adjusted place."""

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
        """Applies the S-head to what :meth:`refine` gives; arguments as for :meth:`forward`."""
        positions = refined.best(top)
        if dense:
            head = self.s_head.dense(refined.pyramid.levels, refined.deltas)
            return refined.predictions(positions, *(at_rows(field, positions) for field in head[:2]))
        return refined.predictions(positions, *self.s_head_at(refined, positions)[:2])

    def dense_maps(self, images: Tensor, sizes: Tensor | None = None) -> DenseMaps:
        """See ``DetectionModel.dense_maps``; the S-head is computed everywhere."""
        return self.dense_maps_of(self.refine(images, sizes))

    def dense_maps_of(self, refined: Refined) -> DenseMaps:
        """Returns dense maps of what :meth:`refine` gives. A class's logit is the log-odds of its softmax score."""
        head = self.s_head.dense(refined.pyramid.levels, refined.deltas)
        logits = log_odds(head.logits.log_softmax(-1)[..., :-1])
        boxes = decode_deltas(head.deltas, refined.adjusted_boxes, std=HEAD_STD)
        return DenseMaps(refined.pyramid.levels, self.trunk.level_numbers, 1, logits, boxes, refined.valid)

    def refine(self, images: Tensor, sizes: Tensor | None = None) -> Refined:
        """Runs trunk and refinement module; arguments as for :meth:`forward`."""
        return self.refine_pyramid(self.trunk(images, sizes), sizes)

    def refine_pyramid(self, pyramid: PyramidFeatures, sizes: Tensor | None = None) -> Refined:
        """Runs the refinement module on a pyramid; ``sizes`` as for :meth:`forward`."""
        places = self.anchors([(level.shape[2], level.shape[3]) for level in pyramid.levels])
        objectness, deltas = self.refinement(pyramid.levels)  # (B, A), (B, A, 4)
        valid = torch.ones_like(objectness, dtype=torch.bool) if sizes is None else places.valid(sizes)
        adjusted = decode_deltas(deltas.detach(), places.anchors.to(deltas.dtype), std=REFINEMENT_STD)
        return Refined(pyramid, places, valid, objectness, deltas, adjusted)

    def places_of(self, images: Tensor) -> Places:
        """Says where the predictions for a padded batch (B, 3, H, W) lie, without computing them."""
        return self.anchors.on_canvas(images)

    def s_head_at(self, refined: Refined, positions: Tensor) -> HeadOutput:
        """Returns the S-head's outputs (B, R, ...) at ``positions`` (B, R) int64."""
        b, r = positions.shape
        rows = positions + torch.arange(b, device=positions.device)[:, None] * refined.objectness.shape[1]
        flat = self.s_head.at(refined.pyramid.levels, refined.deltas, refined.places, rows.flatten())
        return HeadOutput(*(field.reshape(b, r, -1) for field in flat))
