"""ATSS: one square anchor a cell, deltas, centerness; statistics choose the positives (Zhang et al., CVPR 2020)."""

from __future__ import annotations

from collections.abc import Sequence

from mimicdet.models.anchors import Anchors, square
from mimicdet.models.backbone import Backbone
from mimicdet.models.box_decoders import from_scaled_deltas
from mimicdet.models.one_stage import OneStage
from mimicdet.models.pyramid import Pyramid
from mimicdet.models.shared_head import SharedHead

SIDE_IN_CELLS = 8


def atss(*, backbone: Backbone, pyramid: Pyramid, num_classes: int, groups: int = 32) -> OneStage:
    """ATSS on a pyramid.

    Args:
        num_classes: K.
        groups: of the group normalisation after each convolution of the head (32, as published); 0: none.
    """
    levels = pyramid.level_numbers
    head = SharedHead(
        channels=pyramid.channels, num_classes=num_classes, box_outputs=4, levels=len(levels), quality=True,
        groups=groups,
    )  # fmt: skip
    return OneStage(
        backbone=backbone,
        pyramid=pyramid,
        head=head,
        anchors=square_anchors(levels),
        decode_boxes=from_scaled_deltas,
        num_classes=num_classes,
    )


def square_anchors(levels: Sequence[int]) -> Anchors:
    """One of eight cells' side on the centre of every cell."""
    return Anchors(base=[square(SIDE_IN_CELLS * 2**level) for level in levels], levels=levels, convention="center")
