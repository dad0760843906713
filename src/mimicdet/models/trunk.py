"""The trunk of a detector: from a padded batch to a pyramid. A T-head with features of its own has one too."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mimicdet.models.backbone import Backbone
from mimicdet.models.pyramid import Pyramid, PyramidFeatures, mask_padding

DIVISOR = 2**5
"""Canvas sides must be multiples of this (the backbone's coarsest stride)."""


class Trunk(nn.Module):
    """Backbone and feature pyramid.

    Args:
        backbone, pyramid: built modules; the backbone returns the levels that the pyramid reads.
    """

    def __init__(self, *, backbone: Backbone, pyramid: Pyramid) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid

    @property
    def level_numbers(self) -> tuple[int, ...]:
        """Of the pyramid, finest first; level l has cells of 2^l pixels."""
        return self.pyramid.level_numbers

    @property
    def channels(self) -> int:
        """Width of every pyramid level."""
        return self.pyramid.channels

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> PyramidFeatures:
        """The pyramid of a padded batch.

        Args:
            images: (B, 3, H, W) RGB, uint8 or float in 0..1; H and W multiples of 32.
            sizes: (B, 2) int64, height and width of each image inside the canvas; None: the whole canvas.

        Raises:
            ValueError: another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3 or images.shape[2] % DIVISOR or images.shape[3] % DIVISOR:
            raise ValueError(
                f"images must be (B, 3, H, W) with H and W multiples of {DIVISOR}, got {tuple(images.shape)}"
            )
        normalised = mask_padding(self.backbone.normalise(images), sizes, 0)
        features: PyramidFeatures = self.pyramid(self.backbone(normalised), sizes)
        return features


def level_shapes(height: int, width: int, level_numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Rows and columns of a canvas's pyramid levels, each half of the one before, rounded up."""
    return [(-(-height // 2**l), -(-width // 2**l)) for l in level_numbers]
