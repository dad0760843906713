"""The feature pyramid: P3..P5 top-down, coarser levels by strided convolutions (section 3.1).

Padding is kept at zero on every level, so that what an image gives does not depend on how much padding the
rest of its batch brings.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm2d
from torch import Tensor, nn

COARSEST_BACKBONE_LEVEL = 5

Norm = Literal["none", "layer"]
Top = Literal["c5", "p5"]


class PyramidFeatures(NamedTuple):
    """Holds the levels of a pyramid, finest first, and what a finer level can be built from."""

    levels: tuple[Tensor, ...]  # (B, C, H_l, W_l) each
    finest_top_down: Tensor  # (B, C, H, W) of the finest level before its 3x3 convolution
    backbone: Mapping[int, Tensor]  # backbone features by level


def level_mask(sizes: Tensor, level: int, shape: tuple[int, int]) -> Tensor:
    """Returns (B, 1, H, W) bool: cells of a level (stride 2^level) that overlap the image; ``sizes`` (B, 2)."""
    stride = 2**level
    y = torch.arange(shape[0], device=sizes.device) * stride
    x = torch.arange(shape[1], device=sizes.device) * stride
    rows = y[None, :] < sizes[:, :1]
    columns = x[None, :] < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def mask_padding(feature: Tensor, sizes: Tensor | None, level: int) -> Tensor:
    """Returns ``feature`` (B, C, H, W) with zeros on padding; unchanged where ``sizes`` is None."""
    if sizes is None:
        return feature
    return feature * level_mask(sizes, level, (feature.shape[2], feature.shape[3])).to(feature.dtype)


class Pyramid(nn.Module):
    """Builds levels top-down over the backbone's, with P6 and P7 on top where asked for.

    Args:
        in_channels: channels of the backbone's features by level, such as ``{3: 512, 4: 1024, 5: 2048}``.
        levels: the pyramid's levels, consecutive, finest first.
        norm: ``none`` (the paper), or ``layer``: what comes in and goes out is normalised over the channels of each
            cell. The scale of frozen backbone features differs tenfold between networks and levels; normalised, the
            heads start alike on all of them. Over one cell, so that padding has no part in it.
        top: what P6 is computed from: the backbone's coarsest feature (RetinaNet's paper), or P5 (FCOS, ATSS and
            torchvision's detectors).
    """

    def __init__(
        self,
        *,
        in_channels: Mapping[int, int],
        levels: Sequence[int],
        channels: int,
        norm: Norm = "none",
        top: Top = "c5",
    ) -> None:
        super().__init__()
        self.level_numbers = tuple(levels)
        self.channels = channels
        self.top_down_levels = tuple(l for l in levels if l <= COARSEST_BACKBONE_LEVEL)
        self.extra_levels = tuple(l for l in levels if l > COARSEST_BACKBONE_LEVEL)
        self.lateral = nn.ModuleDict({f"p{l}": _lateral(in_channels[l], channels, norm) for l in self.top_down_levels})
        self.output = nn.ModuleDict({f"p{l}": _output(channels, channels, norm) for l in self.top_down_levels})
        # P6 = conv(C5) or conv(P5), P7 = conv(ReLU(P6))
        self.top = top
        width = in_channels[COARSEST_BACKBONE_LEVEL] if top == "c5" else channels
        normalises = norm == "layer" and top == "c5" and self.extra_levels
        self.extra_norm = LayerNorm2d(width) if normalises else nn.Identity()
        widths = (width, *[channels] * len(self.extra_levels))
        extra = zip(self.extra_levels, widths, strict=False)
        self.extra = nn.ModuleDict({f"p{l}": _output(w, channels, norm, stride=2) for l, w in extra})
        he_init(self)

    def forward(self, features: Mapping[int, Tensor], sizes: Tensor | None = None) -> PyramidFeatures:
        """Returns the pyramid of backbone features by level; ``sizes`` (B, 2) is each image's extent in pixels."""
        # What comes in needs no mask: lateral layers work cell by cell, and their sums are masked
        top_down: dict[int, Tensor] = {}
        above: Tensor | None = None
        for l in reversed(self.top_down_levels):
            merged = self.lateral[f"p{l}"](features[l])
            if above is not None:
                merged = merged + F.interpolate(above, size=merged.shape[-2:], mode="nearest")
            above = top_down[l] = mask_padding(merged, sizes, l)
        levels = [mask_padding(self.output[f"p{l}"](top_down[l]), sizes, l) for l in self.top_down_levels]
        coarsest = COARSEST_BACKBONE_LEVEL
        last = levels[-1] if self.top == "p5" else mask_padding(self.extra_norm(features[coarsest]), sizes, coarsest)
        for i, l in enumerate(self.extra_levels):
            last = mask_padding(self.extra[f"p{l}"](last if i == 0 else F.relu(last)), sizes, l)
            levels.append(last)
        return PyramidFeatures(tuple(levels), top_down[self.top_down_levels[0]], features)


class FinerLevel(nn.Module):
    """Builds one level below a pyramid's finest: P2 for the T-head, only while training (section 3.1)."""

    def __init__(self, *, in_channels: int, channels: int, level: int, norm: Norm = "none") -> None:
        super().__init__()
        self.level = level
        self.lateral = _lateral(in_channels, channels, norm)
        self.output = _output(channels, channels, norm)
        he_init(self)

    def forward(self, pyramid: PyramidFeatures, sizes: Tensor | None = None) -> Tensor:
        """Returns (B, C, 2H, 2W), of the pyramid's finest level (B, C, H, W) and the backbone's feature below it."""
        lateral = self.lateral(pyramid.backbone[self.level])
        up = F.interpolate(pyramid.finest_top_down, size=lateral.shape[-2:], mode="nearest")
        return mask_padding(self.output(mask_padding(lateral + up, sizes, self.level)), sizes, self.level)


def _lateral(in_channels: int, channels: int, norm: Norm) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, 1)
    return nn.Sequential(LayerNorm2d(in_channels), conv) if norm == "layer" else conv


def _output(in_channels: int, channels: int, norm: Norm, *, stride: int = 1) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1)
    return nn.Sequential(conv, LayerNorm2d(channels)) if norm == "layer" else conv


def he_init(module: nn.Module) -> None:
    """Initialises every convolution and linear layer inside by He's rule, with biases of zero (section 4.1)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
