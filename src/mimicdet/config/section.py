"""The kinds of values in settings, and the base of all sections."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=1, le=65535)]  # of the largest JPEG file
Workers = Annotated[int, Field(ge=0, le=1024)]
Natural = Annotated[int, Field(ge=0)]

MOST_PIXELS = 2**24
"""Images are made no larger than this, which takes about 2 GB to detect in."""

COARSEST = 12
"""The coarsest pyramid level that any image has a use for."""


class Section(BaseModel):
    """A strict, frozen group of settings: an unknown key or a value of another type is an error."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, validate_default=True, use_attribute_docstrings=True
    )


def require_consecutive(name: str, levels: tuple[int, ...]) -> None:
    """Raises ValueError unless ``levels`` are a run of pyramid levels that a backbone can feed."""
    if levels and levels[-1] > COARSEST:
        raise ValueError(f"{name} must not go beyond {COARSEST}, where a cell has {2**COARSEST} pixels")
    if not levels or list(levels) != list(range(levels[0], levels[0] + len(levels))) or not 2 <= levels[0] <= 5:
        should = "must be consecutive pyramid levels from 2 up, the first at most 5, such as [3, 4, 5, 6, 7]"
        raise ValueError(f"{name} {should}")


def require_room(section: str, shorter: int, longer: int, *, way_out: str) -> None:
    """Raises ValueError where images could have more than ``MOST_PIXELS`` when they are resized to these sides."""
    if min(shorter, longer) * longer > MOST_PIXELS:
        sides = f"{section}.shorter_side {shorter} and {section}.longer_side {longer}"
        raise ValueError(f"{sides} make more than {MOST_PIXELS:,} pixels; make them smaller, {way_out}")
