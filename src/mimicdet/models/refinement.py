"""The refinement module: filters out easy negatives and adjusts the anchors (section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimicdet.ops.precision import full_precision

PRIOR_PROBABILITY = 0.01
ANCHOR_SIDE_IN_CELLS = 4
"""S_l = 4 * 2^l: 32 px on P3 .. 512 px on P7 (section 3.2)."""


class Refinement(nn.Module):
    """One 3x3 convolution and two sibling 1x1 ones, shared over the levels; class-agnostic."""

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
        nn.init.constant_(self.objectness.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))

    def forward(self, levels: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Pyramid levels (B, C, H_l, W_l) -> objectness logits (B, A) and raw deltas (B, A, 4), float32."""
        objectness, deltas = [], []
        for level in levels:
            hidden = F.relu(self.conv(level))
            objectness.append(self.objectness(hidden).flatten(1))
            deltas.append(self.deltas(hidden).flatten(2).transpose(1, 2))
        return full_precision(torch.cat(objectness, dim=1)), full_precision(torch.cat(deltas, dim=1))
