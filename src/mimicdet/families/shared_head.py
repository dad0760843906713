"""The head of ATSS and GFL: a class and a box branch of convolutions, shared over the levels but for a factor each.

B images, A cells over all levels, K classes, D numbers that a box is predicted by.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mimicdet.models.branches import CONVOLUTIONS, Branches, rows
from mimicdet.models.one_stage import HeadMaps, OneStageHead

PRIOR_PROBABILITY = 0.01


class SharedHead(OneStageHead):
    """One prediction a cell.

    Args:
        channels: of the pyramid and of the branches.
        num_classes: K.
        box_outputs: D.
        levels: how many there are; the box outputs of each are multiplied by a factor of its own that is learned.
        quality: predict one from the box branch too (centerness).
        groups: of the group normalisation after each convolution; 0: none.
    """

    def __init__(
        self, *, channels: int, num_classes: int, box_outputs: int, levels: int, quality: bool, groups: int = 32
    ) -> None:
        super().__init__()
        self.class_branch = _branch(channels, groups)
        self.box_branch = _branch(channels, groups)
        self.classifier = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.regressor = nn.Conv2d(channels, box_outputs, 3, padding=1)
        self.quality = nn.Conv2d(channels, 1, 3, padding=1) if quality else None
        self.factors = nn.Parameter(torch.ones(levels))
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        assert self.classifier.bias is not None
        nn.init.constant_(self.classifier.bias, -math.log((1 - PRIOR_PROBABILITY) / PRIOR_PROBABILITY))

    def forward(self, levels: Sequence[Tensor]) -> HeadMaps:
        """Pyramid levels (B, C, H_l, W_l)."""
        logits, boxes, quality = [], [], []
        for level, factor in zip(levels, self.factors, strict=True):
            logits.append(rows(self.classifier(self.class_branch(level)), 1))
            hidden = self.box_branch(level)
            boxes.append(rows(self.regressor(hidden) * factor, 1))
            if self.quality is not None:
                quality.append(rows(self.quality(hidden), 1))
        central = torch.cat(quality, 1).squeeze(-1) if quality else None
        return HeadMaps(torch.cat(logits, 1), torch.cat(boxes, 1), central)

    def branches(self) -> Branches:
        """See ``mimicdet.models.branches``."""
        return Branches(
            self.class_branch,
            self.box_branch,
            lambda feature: rows(self.classifier(feature), 1),
            lambda feature, level: rows(self.regressor(feature) * self.factors[level], 1),
        )


def _branch(channels: int, groups: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(CONVOLUTIONS):
        layers.append(nn.Conv2d(channels, channels, 3, padding=1, bias=not groups))
        if groups:
            layers.append(nn.GroupNorm(groups, channels))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers)
