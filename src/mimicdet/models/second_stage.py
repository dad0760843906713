"""Torchvision's second stage: pooling, box head and box coder on given boxes.

N boxes, K classes, D width of a box's feature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mimicdet.ops.precision import full_precision


def second_stage(
    roi_heads: Any, levels: Mapping[str, Tensor], shapes: Sequence[tuple[int, int]], boxes: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """What torchvision's ``RoIHeads`` says of each image's boxes.

    Args:
        levels: the pyramid, by the names that ``roi_heads`` reads.
        shapes: height and width of each image.
        boxes: (N_i, 4) of each image.

    Returns:
        Logits (N, 1 + K), the background first; boxes (N, K, 4); features (N, D); image by image.
    """
    features = roi_heads.box_head(roi_heads.box_roi_pool(levels, boxes, shapes))
    logits, deltas = roi_heads.box_predictor(features)
    moved = roi_heads.box_coder.decode(full_precision(deltas), boxes)  # (N, 1 + K, 4); in half precision pixels round
    return logits, moved[:, 1:], features


def second_stage_at(
    roi_heads: Any, levels: Mapping[str, Tensor], shapes: Sequence[tuple[int, int]], boxes: Tensor, image: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The same of boxes (N, 4) in any order, each of the image ``image`` (N,) int64."""
    order = image.argsort(stable=True)
    lists = [boxes[order][image[order] == i] for i in range(len(shapes))]
    logits, moved, features = second_stage(roi_heads, levels, shapes, lists)
    back = torch.empty_like(order).index_put((order,), torch.arange(len(order), device=order.device))
    return logits[back], moved[back], features[back]
