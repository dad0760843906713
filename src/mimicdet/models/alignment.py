"""The S-head's alignment layer: a deformable convolution whose taps follow the adjusted box (section 3.3).

Offsets are in cells of the position's level, y before x, tap by tap (torchvision's order). Because an anchor is
4 cells wide on every level, one rule from box deltas to offsets serves all of them.
P: positions, k: kernel size, T = k*k taps.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from mimicdet.models.anchors import ANCHOR_SIDE_IN_CELLS
from mimicdet.ops.boxes import MAX_LOG_SCALE
from mimicdet.ops.precision import full_precision
from mimicdet.ops.sampling import kernel_taps

OffsetSource = Literal["learned", "box_grid", "box_grid+learned"]


def box_grid_offsets(deltas: Tensor, kernel_size: int) -> Tensor:
    """Returns offsets that spread a kernel's taps evenly over the box that raw deltas (..., 4) adjust (AlignConv).

    Returns:
        (..., 2*T): tap (i, j) of the k x k kernel moves to the centre of cell (i, j) of a k x k division of the box.
    """
    taps = kernel_taps(kernel_size, device=deltas.device).to(deltas.dtype)  # (T, 2) y, x
    center = deltas[..., [1, 0]] * ANCHOR_SIDE_IN_CELLS
    size = torch.exp(deltas[..., [3, 2]].clamp(max=MAX_LOG_SCALE)) * ANCHOR_SIDE_IN_CELLS
    points = center[..., None, :] + taps * (size / kernel_size)[..., None, :]  # (..., T, 2)
    return (points - taps).flatten(-2)


class GuidedOffsets(nn.Module):
    """Makes offsets from the refinement module's deltas alone.

    Args:
        source: ``learned`` is the paper's micro-network of three 1x1 layers (4 -> 64 -> 128 -> 2*T); ``box_grid`` is
            :func:`box_grid_offsets`; ``box_grid+learned`` adds the micro-network to it.
        kernel_size: of the alignment layer on all levels but the finest.
        finest_kernel_size: there; where it differs the finest level has its own last layer.
    """

    def __init__(self, *, source: OffsetSource, kernel_size: int, finest_kernel_size: int) -> None:
        super().__init__()
        self.source = source
        self.learned = source != "box_grid"
        if self.learned:
            self.hidden = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 128), nn.ReLU())
            self.last = nn.Linear(128, 2 * kernel_size**2)
            own = finest_kernel_size != kernel_size
            self.last_finest = nn.Linear(128, 2 * finest_kernel_size**2) if own else self.last
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    nn.init.normal_(layer.weight, std=0.01)
                    nn.init.zeros_(layer.bias)

    def forward(self, deltas: Tensor, *, finest: bool, kernel_size: int) -> Tensor:
        """Returns offsets (..., 2*T) for deltas (..., 4) of positions that are all on the finest level, or none."""
        if not self.learned:
            return box_grid_offsets(deltas, kernel_size)
        offsets = self.from_network(deltas, finest=finest)
        return offsets if self.source == "learned" else box_grid_offsets(deltas, kernel_size) + offsets

    def from_network(self, deltas: Tensor, *, finest: bool) -> Tensor:
        """Returns the micro-network's share of the offsets, where there is one; see :meth:`forward`."""
        return full_precision((self.last_finest if finest else self.last)(self.hidden(deltas)))


class AlignedConv(nn.Conv2d):
    """Convolves k x k cells (k odd, stride 1), and can read its taps at given points.

    ``dense`` and ``at`` are two forms of one function: ``at`` at every position gives ``dense``.
    """

    def __init__(self, *, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

    def dense(self, feature: Tensor, offsets: Tensor | None) -> Tensor:
        """Returns (B, C_out, H, W) of (B, C, H, W) and offsets (B, 2*T, H, W); None is a plain convolution."""
        if offsets is None:
            return self(feature)
        # torchvision has no half-precision CPU kernel; in float32 the taps are exact on every device
        with torch.autocast(feature.device.type, enabled=False):
            feature, offsets = feature.to(self.weight.dtype), offsets.to(self.weight.dtype)
            return deform_conv2d(feature, offsets, self.weight, self.bias, padding=self.padding)

    def at(self, taps: Tensor) -> Tensor:
        """Returns (P, C_out) of the values (P, T, C) read at the taps of P positions."""
        weight = self.weight.permute(0, 2, 3, 1).reshape(self.out_channels, -1)
        return F.linear(taps.flatten(1), weight, self.bias)
