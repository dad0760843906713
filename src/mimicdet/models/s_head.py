"""The S-head: the one-stage head that ships (section 3.3).

Every operation is per position once the pyramid is there, so the head can be computed where it is read: ``at`` for
chosen positions, ``dense`` for all, equal to rounding in values and gradients.
B images, A positions, P chosen ones, K classes, D feature width.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimicdet.models.alignment import AlignedConv, GuidedOffsets, OffsetSource
from mimicdet.models.anchors import ANCHOR_SIDE_IN_CELLS
from mimicdet.models.detector import Places
from mimicdet.models.pyramid import he_init
from mimicdet.ops.boxes import decode_deltas
from mimicdet.ops.precision import full_precision
from mimicdet.ops.sampling import kernel_taps, sample_bilinear

FAR_OUTSIDE = -1e4  # Cells; a tap there reads zero

Alignment = Literal["guided", "deformable", "conv"]
Paths = Literal["dual", "single"]
Init = Literal["gaussian", "he"]


class HeadOutput(NamedTuple):
    """Holds what S-head or T-head say; the leading dimensions are (P,) from ``at`` and (B, A) from ``dense``."""

    logits: Tensor  # (..., K+1) the last class is background
    deltas: Tensor  # (..., 4) on the adjusted box, divided by the standard deviations (.1, .1, .2, .2)
    class_feature: Tensor  # (..., D) what the logits are computed from
    box_feature: Tensor  # (..., D) what the deltas are computed from


class SHead(nn.Module):
    """Classifies positions and predicts their boxes, with layers shared over the levels.

    An alignment layer, two sibling 1x1 layers to D features, two 1x1 predictors.

    Args:
        channels: of the alignment layer.
        features: D, the T-head's too.
        alignment: offsets from the box deltas (``guided``), from a convolution on the features (``deformable``), or
            none (``conv``): Table 2.
        offsets: where guided offsets come from.
        kernel_size, finest_kernel_size: of the alignment layer; the finest level has its own weights where they differ.
        offset_grad: share of the gradient that flows through guided offsets into the refinement module, 0..1.
        paths: separate features for classification and regression (``dual``, Figure 2), or one for both (``single``,
            the counterpart of a T-head that is not split: Table 3).
        init: sigma 0.01 everywhere (``gaussian``, the paper), or He for the alignment and feature layers.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_classes: int,
        channels: int = 256,
        features: int = 1024,
        alignment: Alignment = "guided",
        offsets: OffsetSource = "learned",
        kernel_size: int = 5,
        finest_kernel_size: int = 3,
        offset_grad: float = 0.0,
        paths: Paths = "dual",
        init: Init = "gaussian",
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.alignment = alignment
        self.offset_grad = offset_grad
        own = finest_kernel_size != kernel_size

        def layer(out: int, k: int) -> AlignedConv:
            return AlignedConv(in_channels=in_channels, out_channels=out, kernel_size=k)

        self.align = layer(channels, kernel_size)
        self.align_finest = layer(channels, finest_kernel_size) if own else self.align
        if alignment == "guided":
            self.guided_offsets = GuidedOffsets(
                source=offsets, kernel_size=kernel_size, finest_kernel_size=finest_kernel_size
            )
        elif alignment == "deformable":
            self.offset_conv = layer(2 * kernel_size**2, kernel_size)
            self.offset_conv_finest = layer(2 * finest_kernel_size**2, finest_kernel_size) if own else self.offset_conv
        self.class_features = nn.Linear(channels, features)
        self.box_features = nn.Linear(channels, features) if paths == "dual" else self.class_features
        self.classifier = nn.Linear(features, num_classes + 1)
        self.regressor = nn.Linear(features, 4)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if init == "he":
            for module in (self.align, self.align_finest, self.class_features, self.box_features):
                he_init(module)

    def dense(self, levels: Sequence[Tensor], deltas: Tensor) -> HeadOutput:
        """Returns the outputs at every position, of levels (B, C, H_l, W_l) and the refinement's deltas (B, A, 4)."""
        parts, start = [], 0
        for i, feature in enumerate(levels):
            b, _, h, w = feature.shape
            finest = i == 0
            align, offsets = self._layer(finest), None
            if self.alignment == "guided":
                level_deltas = self._guide(deltas[:, start : start + h * w])
                flat = self.guided_offsets(level_deltas, finest=finest, kernel_size=align.kernel_size[0])
                offsets = flat.transpose(1, 2).reshape(b, -1, h, w)
            elif self.alignment == "deformable":
                offsets = (self.offset_conv_finest if finest else self.offset_conv)(feature)
            parts.append(align.dense(feature, offsets).flatten(2).transpose(1, 2))
            start += h * w
        return self._predict(torch.cat(parts, dim=1))

    def at(self, levels: Sequence[Tensor], deltas: Tensor, places: Places, rows: Tensor) -> HeadOutput:
        """Returns the outputs at chosen positions only.

        Args:
            levels: pyramid levels (B, C, H_l, W_l), finest first.
            deltas: (B, A, 4) of the refinement module.
            places: of the levels.
            rows: (P,) int64, ``image * A + position``; repeats are allowed.
        """
        table, count = self.table(levels)
        image = rows // count
        position = rows - image * count  # not %, which has no ONNX form for a size known only at run time
        chosen_deltas = self._guide(deltas.reshape(-1, 4)[rows])
        on_finest = places.level[position] == 0
        # Two forms of one function: compiled or exported, no shape may depend on how many positions each level has
        align = self._align_fixed if torch.compiler.is_compiling() else self._align_grouped
        return self._predict(align(table, chosen_deltas, places, image * count, position, on_finest))

    def table(self, levels: Sequence[Tensor]) -> tuple[Tensor, int]:
        """Returns all cells of a batch, image by image (B A, C), and A."""
        # Channels last first: for such levels, as on every fast path, this is one plain copy
        table = torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], dim=1)  # (B, A, C)
        return table.reshape(-1, table.shape[2]).to(self.align.weight.dtype), table.shape[1]

    def _align_grouped(
        self, table: Tensor, deltas: Tensor, places: Places, image_start: Tensor, position: Tensor, on_finest: Tensor
    ) -> Tensor:
        """Positions on the finest level, then all others: no tap is read in vain."""
        groups, order = [], []
        # Both groups are always computed, so that every process of a group touches the same parameters
        for finest, members in ((True, on_finest), (False, ~on_finest)):
            index = members.nonzero().squeeze(1)
            level = level_of(places, image_start[index], position[index])
            points = self.points(table, deltas[index], places, level, position[index], finest=finest)
            groups.append(self._layer(finest).at(sample_bilinear(table, points, **level)))
            order.append(index)
        rows = torch.arange(len(position), device=position.device)
        restored = torch.empty_like(position).index_put((torch.cat(order),), rows)
        return torch.cat(groups)[restored]

    def _align_fixed(
        self, table: Tensor, deltas: Tensor, places: Places, image_start: Tensor, position: Tensor, on_finest: Tensor
    ) -> Tensor:
        """As many taps everywhere as the larger kernel has; those that the finest level lacks lie far outside."""
        level = level_of(places, image_start, position)
        points = [self.points(table, deltas, places, level, position, finest=finest) for finest in (True, False)]
        most = max(p.shape[1] for p in points)
        fine, other = (F.pad(p, (0, 0, 0, most - p.shape[1]), value=FAR_OUTSIDE) for p in points)
        taps = sample_bilinear(table, torch.where(on_finest[:, None, None], fine, other), **level)
        layers = (self.align_finest, self.align)
        fine, other = (layer.at(taps[:, : p.shape[1]]) for layer, p in zip(layers, points, strict=True))
        return torch.where(on_finest[:, None], fine, other)

    def tap_points(self, deltas: Tensor, *, finest: bool) -> Tensor:
        """Returns where a guided layer reads, (P, T, 2) y, x in cells from the position, of deltas (P, 4)."""
        k = self._layer(finest).kernel_size[0]
        offsets = self.guided_offsets(deltas, finest=finest, kernel_size=k)
        return kernel_taps(k, device=deltas.device) + offsets.unflatten(-1, (k * k, 2))

    def tap_statistics(self, deltas: Tensor, *, finest: bool) -> tuple[Tensor, Tensor]:
        """Returns, of deltas (P, 4), the offsets' mean length in cells and the share of taps in the box; (P,) each."""
        points = self.tap_points(deltas, finest=finest)
        k = self._layer(finest).kernel_size[0]
        length = (points - kernel_taps(k, device=deltas.device)).norm(dim=-1).mean(-1)
        box = decode_deltas(deltas, deltas.new_tensor([-0.5, -0.5, 0.5, 0.5]) * ANCHOR_SIDE_IN_CELLS, std=(1, 1, 1, 1))
        inside = (points >= box[:, None, [1, 0]]) & (points <= box[:, None, [3, 2]])
        return length, inside.all(-1).to(deltas.dtype).mean(-1)

    def _layer(self, finest: bool) -> AlignedConv:
        return self.align_finest if finest else self.align

    def _guide(self, deltas: Tensor) -> Tensor:
        """Deltas that let through ``offset_grad`` of their gradient."""
        detached = deltas.detach()
        return detached if self.offset_grad == 0 else detached + self.offset_grad * (deltas - detached)

    def points(
        self, table: Tensor, deltas: Tensor, places: Places, level: dict[str, Tensor], position: Tensor, *, finest: bool
    ) -> Tensor:
        """Returns where the alignment layer reads: (P, T, 2) y, x in cells of each position's level."""
        center = torch.stack([places.y[position], places.x[position]], dim=-1).to(table.dtype)
        if self.alignment == "guided":
            return center[:, None] + self.tap_points(deltas, finest=finest).to(table.dtype)
        k = self._layer(finest).kernel_size[0]
        points = center[:, None] + kernel_taps(k, device=table.device).to(table.dtype)
        if self.alignment == "deformable":
            conv = self.offset_conv_finest if finest else self.offset_conv
            offsets = conv.at(sample_bilinear(table, points, **level))
            points = points + offsets.reshape(points.shape).to(points.dtype)
        return points

    def _predict(self, aligned: Tensor) -> HeadOutput:
        aligned = F.relu(aligned)
        class_feature = F.relu(self.class_features(aligned))
        box_feature = F.relu(self.box_features(aligned))
        outputs = (self.classifier(class_feature), self.regressor(box_feature), class_feature, box_feature)
        return HeadOutput(*(full_precision(output) for output in outputs))


def level_of(places: Places, image_start: Tensor, position: Tensor) -> dict[str, Tensor]:
    """Says where each position's map begins in the table of all cells, and its size; (P,) each."""
    level = places.level[position]
    return {"start": image_start + places.first[level], "height": places.rows[level], "width": places.columns[level]}
