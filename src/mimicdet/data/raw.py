"""What a format reader hands over: records as they stand in the files, before any rule is applied to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mimicdet.data.dataset import Category


@dataclass(frozen=True)
class Source:
    """Where one split of a data set lies."""

    format: str  # "coco", "voc" or "yolo"
    root: Path
    split: str
    annotations: Path  # COCO: the JSON file; VOC: the folder of XML files; YOLO: the YAML file
    images: tuple[Path, ...]  # folders searched for images, in this order; YOLO: folders or lists of images
    listing: Path | None = None  # VOC: the file that lists the split's images


@dataclass(frozen=True)
class SplitSources:
    """A data set as found on disk: its format and where each split lies."""

    root: Path
    format: str
    splits: dict[str, Source]


@dataclass(frozen=True)
class RawImage:
    """One image that exists on disk."""

    id: int
    file: Path
    recorded: tuple[int, int] | None  # height and width that the annotations claim, if they do
    annotations: Path  # the file that holds the image's objects
    item: str  # how to name the image within that file; empty if the file is about this image only


@dataclass
class RawSplit:
    """One split as its files have it. N objects; readers append to the lists one object at a time."""

    source: Source
    categories: tuple[Category, ...]
    images: list[RawImage] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)  # (N,) index into images
    boxes: list[Sequence[float]] = field(default_factory=list)  # (N, 4) x1 y1 x2 y2, anything but text
    labels: list[int] = field(default_factory=list)  # (N,) index into categories
    crowd: list[bool] = field(default_factory=list)  # (N,)
    areas: list[float] = field(default_factory=list)  # (N,) NaN where the file gives none
    items: list[str] = field(default_factory=list)  # (N,) "annotation 17", "line 3", ...
    fractions: bool = False  # boxes are fractions of the image's sides instead of pixels

    def add(
        self,
        *,
        owner: int,
        box: Sequence[float],
        label: int,
        item: str,
        crowd: bool = False,
        area: float = np.nan,
    ) -> None:
        self.owners.append(owner)
        self.boxes.append(box)
        self.labels.append(label)
        self.crowd.append(crowd)
        self.areas.append(area)
        self.items.append(item)
