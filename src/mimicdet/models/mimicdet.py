"""MimicDet as it ships: backbone, pyramid, refinement module, S-head (section 3).

The T-head is not here: it belongs to the training task (``mimicdet.tasks.mimic``), so a shipped state dict holds no
teacher by construction.
B images, H W the padded canvas, A positions, R positions read, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mimicdet.models.backbone import Backbone
from mimicdet.models.dense import DenseMaps, DenseOutput, log_odds
from mimicdet.models.grid import Grid, make_grid
from mimicdet.models.pyramid import Pyramid, PyramidFeatures
from mimicdet.models.refinement import Refinement
from mimicdet.models.s_head import HeadOutput, SHead
from mimicdet.models.trunk import DIVISOR, level_shapes, pyramid_of
from mimicdet.ops.boxes import decode_deltas

REFINEMENT_STD = (1.0, 1.0, 1.0, 1.0)
"""The refinement module's deltas are raw: they also feed the offset micro-network."""
HEAD_STD = (0.1, 0.1, 0.2, 0.2)
"""Of the S-head's and T-head's deltas on the adjusted box (Faster R-CNN)."""


class Refined(NamedTuple):
    """What the refinement module gives on a batch."""

    pyramid: PyramidFeatures
    grid: Grid
    valid: Tensor  # (B, A) bool, False on padding
    objectness: Tensor  # (B, A) logits
    deltas: Tensor  # (B, A, 4) raw
    adjusted_boxes: Tensor  # (B, A, 4) anchors moved by the detached deltas, pixels of the padded input


class MimicDet(nn.Module):
    """A one-stage detector with one square anchor a position, adjusted once and classified at its adjusted place.

    Args:
        backbone, pyramid, refinement, s_head: built modules; the pyramid's levels are the heads' levels.
    """

    divisor = DIVISOR

    def __init__(self, *, backbone: Backbone, pyramid: Pyramid, refinement: Refinement, s_head: SHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid
        self.refinement = refinement
        self.s_head = s_head

    @property
    def num_classes(self) -> int:
        return self.s_head.num_classes

    def forward(
        self,
        images: Tensor,
        sizes: Tensor | None = None,
        *,
        dense: bool = False,
        top: int = 1000,
    ) -> DenseOutput:
        """Predictions for a padded batch.

        Args:
            images: (B, 3, H, W) RGB, uint8 or float in 0..1; H and W multiples of 32.
            sizes: (B, 2) int64, height and width of each image inside the canvas; None: the whole canvas.
            dense: compute the S-head everywhere; else at the ``top`` positions by refinement score.
            top: R, at most A.
        """
        return self.predict(self.refine(images, sizes), dense=dense, top=top)

    def predict(self, refined: Refined, *, dense: bool = False, top: int = 1000) -> DenseOutput:
        """The S-head on what :meth:`refine` gives; arguments as for :meth:`forward`."""
        objectness = refined.objectness.masked_fill(~refined.valid, float("-inf"))
        b, a = objectness.shape
        if dense:
            positions = torch.arange(a, device=objectness.device).expand(b, a)
            head = self.s_head.dense(refined.pyramid.levels, refined.deltas, refined.grid)
        else:
            positions = objectness.topk(min(top, a), dim=1).indices
            head = self.s_head_at(refined, positions)
        base = refined.adjusted_boxes.gather(1, positions[..., None].expand(-1, -1, 4))
        return DenseOutput(
            objectness=objectness,
            adjusted_boxes=refined.adjusted_boxes,
            positions=positions,
            logits=head.logits,
            boxes=decode_deltas(head.deltas, base, std=HEAD_STD),
        )

    def dense_maps(self, images: Tensor, sizes: Tensor | None = None) -> DenseMaps:
        """See ``mimicdet.models.dense.DenseDetector``; the S-head is computed everywhere."""
        return self.dense_maps_of(self.refine(images, sizes))

    def dense_maps_of(self, refined: Refined) -> DenseMaps:
        """The same from what :meth:`refine` gives. A class's logit is the log-odds of its softmax score."""
        output = self.predict(refined, dense=True)
        return DenseMaps(
            features=refined.pyramid.levels,
            level_numbers=self.pyramid.level_numbers,
            per_cell=1,
            logits=log_odds(output.logits.log_softmax(-1)[..., :-1]),
            boxes=output.boxes,
            valid=refined.valid,
        )

    def refine(self, images: Tensor, sizes: Tensor | None = None) -> Refined:
        """Backbone, pyramid and refinement module; arguments as for :meth:`forward`."""
        return self.refine_pyramid(pyramid_of(self.backbone, self.pyramid, images, sizes), sizes)

    def refine_pyramid(self, pyramid: PyramidFeatures, sizes: Tensor | None = None) -> Refined:
        """The refinement module on a pyramid; ``sizes`` as for :meth:`forward`."""
        shapes = [(level.shape[2], level.shape[3]) for level in pyramid.levels]
        grid = self._grid(shapes, pyramid.levels[0].device)
        objectness, deltas = self.refinement(pyramid.levels)
        valid = torch.ones_like(objectness, dtype=torch.bool) if sizes is None else grid.valid(sizes)
        adjusted = decode_deltas(deltas.detach(), grid.anchors.to(deltas.dtype), std=REFINEMENT_STD)
        return Refined(pyramid, grid, valid, objectness, deltas, adjusted)

    def grid_of(self, images: Tensor) -> Grid:
        """Where the predictions for a padded batch (B, 3, H, W) lie, without computing them."""
        height, width = images.shape[2:]
        return self._grid(level_shapes(height, width, self.pyramid.level_numbers), images.device)

    def _grid(self, shapes: Sequence[tuple[int, int]], device: torch.device) -> Grid:
        return make_grid(shapes, [2**l for l in self.pyramid.level_numbers], device)

    def s_head_at(self, refined: Refined, positions: Tensor) -> HeadOutput:
        """The S-head at ``positions`` (B, R) int64; outputs (B, R, ...)."""
        b, r = positions.shape
        rows = positions + torch.arange(b, device=positions.device)[:, None] * refined.objectness.shape[1]
        flat = self.s_head.at(refined.pyramid.levels, refined.deltas, refined.grid, rows.flatten())
        return HeadOutput(*(field.reshape(b, r, -1) for field in flat))
