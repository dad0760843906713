"""A head as two branches of convolutions and what follows them: where CrossKD cuts it.

B images, n anchors a cell, K classes, D numbers that a box is predicted by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

CONVOLUTIONS = 4
"""Of each branch."""


class Branches(NamedTuple):
    """The parts of a head, its own modules."""

    class_convs: nn.Sequential
    box_convs: nn.Sequential
    finish_class: Callable[[Tensor], Tensor]  # (B, C, H, W) -> (B, H W n, K) logits
    finish_boxes: Callable[[Tensor, int], Tensor]  # (B, C, H, W), index of the level -> (B, H W n, D)


class Hidden(NamedTuple):
    """Features inside a head after some of its convolutions, level by level."""

    class_features: list[Tensor]  # (B, C, H_l, W_l)
    box_features: list[Tensor]


def rows(feature: Tensor, per_cell: int) -> Tensor:
    """(B, n D, H, W) -> (B, H W n, D)."""
    b, _, h, w = feature.shape
    return feature.reshape(b, per_cell, -1, h, w).permute(0, 3, 4, 1, 2).flatten(1, 3)


def first_part(branches: Branches, levels: Sequence[Tensor], depth: int) -> Hidden:
    """The features after ``depth`` of the four convolutions."""
    class_convs, box_convs = (_cut(convs, depth)[0] for convs in branches[:2])
    return Hidden([class_convs(level) for level in levels], [box_convs(level) for level in levels])


def second_part(branches: Branches, hidden: Hidden, depth: int) -> tuple[Tensor, Tensor]:
    """Logits (B, A, K) and box outputs (B, A, D) from the features after ``depth`` convolutions."""
    class_convs, box_convs = (_cut(convs, depth)[1] for convs in branches[:2])
    logits = [branches.finish_class(class_convs(feature)) for feature in hidden.class_features]
    boxes = [branches.finish_boxes(box_convs(feature), i) for i, feature in enumerate(hidden.box_features)]
    return torch.cat(logits, dim=1), torch.cat(boxes, dim=1)


def _cut(convs: nn.Sequential, depth: int) -> tuple[nn.Sequential, nn.Sequential]:
    """A convolution may be one module with its normalisation and activation, or two or three."""
    place = depth * (len(convs) // CONVOLUTIONS)
    return convs[:place], convs[place:]
