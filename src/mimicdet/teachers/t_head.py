"""Defines the T-head, the two-stage head that the S-head learns from (section 3.3). It is for training only.

N boxes of a batch, D feature width, K classes.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align

from mimicdet.models.pyramid import he_init
from mimicdet.models.s_head import HeadOutput
from mimicdet.ops.precision import full_precision
from mimicdet.ops.sampling import pool_boxes

POOLED = 7
SAMPLING_RATIO = 2

Variant = Literal["dual", "heavy", "light"]


class THead(nn.Module):
    """Classifies and moves boxes: RoIAlign on a box's own level, then fully connected layers.

    Args:
        in_channels, conv_channels: of the pyramid, and of the 3x3 convolutions.
        variant: ``dual``: two D-wide layers for classification beside four convolutions and one D-wide layer for
            regression (Figure 2); ``light``: two shared D-wide layers; ``heavy``: four convolutions first (Table 3).
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        features: int = 1024,
        conv_channels: int = 256,
        variant: Variant = "dual",
    ) -> None:
        super().__init__()
        self.variant = variant
        flat_in, flat_conv = in_channels * POOLED**2, conv_channels * POOLED**2
        self.convs = nn.Sequential()
        if variant != "light":
            for channels in (in_channels, *[conv_channels] * 3):
                self.convs.extend([nn.Conv2d(channels, conv_channels, 3, padding=1), nn.ReLU()])
        class_in = flat_conv if variant == "heavy" else flat_in
        hidden = nn.Linear(class_in, features), nn.Linear(features, features)
        self.class_layers = nn.Sequential(hidden[0], nn.ReLU(), hidden[1], nn.ReLU())
        if variant == "dual":
            self.box_layer = nn.Sequential(nn.Linear(flat_conv, features), nn.ReLU())
        self.classifier = nn.Linear(features, num_classes + 1)
        self.regressor = nn.Linear(features, 4)
        he_init(self)

    def forward(
        self, levels: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, image: Tensor, level: Tensor
    ) -> HeadOutput:
        """Pools each box from its level and predicts.

        Args:
            levels: feature maps (B, C, H_l, W_l) that boxes are pooled from.
            strides: pixels a cell, for each level.
            boxes: (N, 4) pixels of the padded input.
            image: (N,) int64, each box's image in the batch.
            level: (N,) int64, index into ``levels``.

        Returns:
            Logits (N, K+1), deltas (N, 4), features (N, D); one feature serves both paths unless ``dual``.
        """
        pooled = self.pool(levels, strides, boxes, image, level)
        if self.variant == "dual":
            class_feature = self.class_layers(pooled.flatten(1))
            box_feature = self.box_layer(self.convs(pooled).flatten(1))
        else:
            class_feature = box_feature = self.class_layers(self.convs(pooled).flatten(1))
        logits, deltas = self.classifier(class_feature), self.regressor(box_feature)
        return HeadOutput(*(full_precision(field) for field in (logits, deltas, class_feature, box_feature)))

    @staticmethod
    def pool(levels: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, image: Tensor, level: Tensor) -> Tensor:
        """Pools (N, C, 7, 7) by RoIAlign, aligned, two samples a bin and axis; NaN where a box is not finite."""
        # Pooling would read outside the map at such boxes; a diverged step must reach the check that skips it
        spoilt = (boxes * 0).sum(1)
        boxes = boxes.nan_to_num(0, 0, 0)
        # torchvision's operator has a kernel for GPUs; on a CPU, one gather over all levels takes a quarter of its time
        pool = _pool_by_gather if boxes.device.type == "cpu" else _pool_by_torchvision
        return pool(levels, strides, boxes, image, level) + spoilt[:, None, None, None]


def _pool_by_gather(
    levels: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, image: Tensor, level: Tensor
) -> Tensor:
    tables = [full_precision(feature).permute(0, 2, 3, 1).flatten(0, 2) for feature in levels]
    sizes = torch.tensor([feature.shape[2:] for feature in levels], device=boxes.device)
    starts = torch.tensor([0, *(len(table) for table in tables[:-1])], device=boxes.device).cumsum(0)
    height, width = sizes[level].unbind(1)
    table = torch.cat(tables)
    in_cells = boxes.to(tables[0].dtype) / torch.tensor(strides, device=boxes.device)[level, None]
    maps = {"start": starts[level] + image * height * width, "height": height, "width": width}
    return pool_boxes(table, in_cells, **maps, size=POOLED, samples=SAMPLING_RATIO)


def _pool_by_torchvision(
    levels: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, image: Tensor, level: Tensor
) -> Tensor:
    order, parts = [], []
    for i, (feature, stride) in enumerate(zip(levels, strides, strict=True)):
        members = (level == i).nonzero().squeeze(1)
        # RoIAlign repeats the last row and column of a map beyond its edge: a margin of zeros, as padding is,
        # makes what a box gets there independent of how much padding its batch brings
        feature = F.pad(full_precision(feature), (0, 1, 0, 1))
        rois = torch.cat([image[members, None].to(feature.dtype), boxes[members].to(feature.dtype)], dim=1)
        parts.append(roi_align(feature, rois, POOLED, 1 / stride, SAMPLING_RATIO, aligned=True))
        order.append(members)
    restored = torch.empty_like(level).index_put((torch.cat(order),), torch.arange(len(level), device=level.device))
    return torch.cat(parts)[restored]
