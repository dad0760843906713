"""GFL: classes scored by the quality of their boxes, sides as distributions (Li et al., NeurIPS 2020)."""

from __future__ import annotations

from mimicdet.models.atss import square_anchors
from mimicdet.models.backbone import Backbone
from mimicdet.models.box_decoders import from_distributions
from mimicdet.models.one_stage import OneStage
from mimicdet.models.pyramid import Pyramid
from mimicdet.models.shared_head import SharedHead

LONGEST_DISTANCE = 16
"""Cells; a side's distribution covers 0 to this many."""


def gfl(*, backbone: Backbone, pyramid: Pyramid, num_classes: int, groups: int = 32) -> OneStage:
    """GFL on a pyramid.

    Args:
        num_classes: K.
        groups: of the group normalisation after each convolution of the head (32, as published); 0: none.
    """
    levels = pyramid.level_numbers
    head = SharedHead(
        channels=pyramid.channels, num_classes=num_classes, box_outputs=4 * (LONGEST_DISTANCE + 1), levels=len(levels),
        quality=False, groups=groups,
    )  # fmt: skip
    return OneStage(
        backbone=backbone,
        pyramid=pyramid,
        head=head,
        anchors=square_anchors(levels),  # for their places, and for the assignment, which is ATSS's
        decode_boxes=from_distributions,
        num_classes=num_classes,
    )
