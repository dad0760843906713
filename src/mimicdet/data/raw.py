"""Holds what every format reader shares: sources, text files, and records before any rule is applied to them."""

import os
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mimicdet.data.dataset import Category
from mimicdet.errors import UserError
from mimicdet.streams import is_special

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """A source says where one split of a data set lies."""

    format: str  # "coco", "voc" or "yolo"
    root: Path
    split: str
    annotations: Path  # COCO: the JSON file; VOC: the folder of XML files; YOLO: the YAML file
    images: tuple[Path, ...]  # folders searched for images, in this order; YOLO: folders or lists of images
    listing: Path | None = None  # VOC: the file that lists the split's images


@dataclass(frozen=True)
class SplitSources:
    """The sources of a data set say its format and where each split lies."""

    root: Path
    format: str
    splits: dict[str, Source]
    known: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    def once(self, what: Hashable, find: Callable[[], T]) -> T:
        """Returns what ``find`` does, which is asked once: what all splits share is not read anew for each of them."""
        if what not in self.known:
            self.known[what] = find()
        return self.known[what]

    @property
    def origin(self) -> Path:
        """Returns what says which splits there are: the folder, or YOLO's YAML file."""
        return next(iter(self.splits.values())).annotations if self.format == "yolo" else self.root


@dataclass(frozen=True)
class RawImage:
    """A raw image exists on disk, and may have a size in the annotations."""

    id: int
    file: Path
    recorded: tuple[int, int] | None  # height and width that the annotations claim, if they do
    annotations: Path  # the file that holds the image's objects
    item: str  # how to name the image within that file; empty if the file is about this image only


@dataclass
class RawSplit:
    """A raw split holds N objects as its files have them; readers append to the lists one object at a time."""

    source: Source
    categories: tuple[Category, ...]
    images: list[RawImage] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)  # (N,) index into images
    boxes: list[Sequence[float]] = field(default_factory=list)  # (N, 4) x1 y1 x2 y2, anything but text
    labels: list[int] = field(default_factory=list)  # (N,) index into categories
    crowd: list[bool] = field(default_factory=list)  # (N,)
    areas: list[float] = field(default_factory=list)  # (N,) NaN where the file gives none
    items: list[str] = field(default_factory=list)  # (N,) "annotation 17", "line 3", ...
    unused: Counter[str] = field(default_factory=Counter)  # how often a field has a value that is not used
    fractions: bool = False  # boxes are fractions of the image's sides instead of pixels

    @cached_property
    def class_index(self) -> dict[str, int]:
        """Maps the name of each class to its index."""
        return {category.name: index for index, category in enumerate(self.categories)}

    def add(
        self, owner: int, box: Sequence[float], label: int, item: str, *, crowd: bool = False, area: float = np.nan
    ) -> None:
        """Appends an object; the arguments are a row of the lists above."""
        self.owners.append(owner)
        self.boxes.append(box)
        self.labels.append(label)
        self.crowd.append(crowd)
        self.areas.append(area)
        self.items.append(item)


_ONE_IMAGE = 2**26
"""Bytes that no file has which describes a single image: about a million boxes."""


def read_text(file: Path, *, of_one_image: bool = False) -> str:
    """Returns the file's text, UTF-8 with or without a byte-order mark.

    Raises UserError if there is no such file or text, or more than describes one image where it should.
    """
    try:
        if is_special(file) or file.is_dir():  # a pipe without a writer would be waited for
            raise UserError(f"{file}: is no file of text; correct the path")
        if of_one_image:
            require_one_image(file)
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 text (byte {error.start}); save it as UTF-8, or restore it if it was damaged"
    except FileNotFoundError:
        problem = "there is no such file; restore it or correct the path"
        if os.path.islink(file):
            problem = "is a link that leads nowhere; restore what it leads to, or remove the link"
    except OSError as error:
        problem = f"cannot be read ({error.strerror}); check the path and its permissions"
    except MemoryError:
        problem = "does not fit into memory; see whether it is the right file"
    raise UserError(f"{file}: {problem}")


def require_one_image(file: Path) -> None:
    """Raises UserError for a file that is too large to describe one image; OSError where it is none."""
    if (size := os.stat(file).st_size) > _ONE_IMAGE:
        problem = f"is too large to describe an image ({size / 2**20:,.0f} MB); see whether it is the right file"
        raise UserError(f"{file}: {problem}")


def read_number(text: str) -> float | None:
    """Returns the number that a text is; None for what only Python takes for one, too: 1_0, digits of any script."""
    try:
        return float(text) if text.isascii() and "_" not in text else None
    except ValueError:
        return None


def clean_name(name: str, file: Path, item: str) -> str:
    """Returns a category's name with runs of white space made one blank; UserError if nothing printable is left."""
    cleaned = " ".join(name.split())
    if not is_printable(cleaned):
        raise UserError(f"{file}: {item}: the category name {name!r} is empty or not printable; correct it")
    return cleaned


def is_printable(name: str) -> bool:
    """Tells whether a name can be shown, and has something to show."""
    joiners = str.maketrans("", "", "\u200c\u200d")  # part of how Persian and Hindi are written
    visible = name.translate(joiners)
    return bool(visible) and visible.isprintable()


def first_repeated(names: Sequence[str]) -> str | None:
    """Returns the first name that stands in the list a second time, None if there is none."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)  # type: ignore[func-returns-value]


class RepeatedFieldError(ValueError):
    """An object of a JSON file has a field twice, of which a reader would take the last in silence."""


def unique_fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns an object of a JSON file, as ``object_pairs_hook``; RepeatedFieldError for one given twice."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = first_repeated([name for name, _ in pairs])
        raise RepeatedFieldError(f"one object has two fields {twice!r}, of which only one could be read")
    return fields
