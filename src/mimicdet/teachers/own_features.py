"""A backbone and a pyramid of the T-head's own: what sharing them with the S-head is compared with (Table 5)."""

from __future__ import annotations

from torch import Tensor, nn

from mimicdet.models.backbone import Backbone
from mimicdet.models.pyramid import Pyramid
from mimicdet.models.trunk import pyramid_of


class OwnFeatures(nn.Module):
    """The levels that the T-head pools from, computed from the image once more.

    Args:
        backbone: with weights of its own.
        pyramid: its levels are the T-head's.
    """

    def __init__(self, *, backbone: Backbone, pyramid: Pyramid) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> tuple[Tensor, ...]:
        """Arguments as for ``MimicDet.forward``; levels (B, C, H_l, W_l), finest first."""
        return pyramid_of(self.backbone, self.pyramid, images, sizes).levels
