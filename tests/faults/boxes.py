"""What a data set's annotations mean, literally: the boxes that remain of them, and how two readings are compared."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mimicdet.data import clean
from mimicdet.data.dataset import DetectionDataset
from tests.data.test_clean import literal

WIDTH, HEIGHT = 40, 30
FILES = ("a.png", "b.png", "c.png")
NAMES = ("cat", "dog", "newt")
NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)
"""A number as every tool writes it: 1_0 and digits of other scripts are none."""

Box = tuple[str, str, tuple[float, ...], bool]
"""The name of the file, the name of the class, x1 y1 x2 y2, crowd."""


class RefusedError(Exception):
    """The literal reader says that the input must be refused."""


class UnclearError(Exception):
    """The literal reader leaves open what becomes of the input, but no traceback."""


def write_images(folder: Path) -> None:
    """Writes the three images, each of a colour of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(FILES):
        Image.fromarray(np.full((HEIGHT, WIDTH, 3), 60 + 60 * number, np.uint8)).save(folder / name)


def kept(box: Sequence[float]) -> tuple[float, ...] | None:
    """Returns what the rules leave of a box in pixels; None where they drop it."""
    verdict, inside = literal(tuple(box), HEIGHT, WIDTH)
    return tuple(inside) if verdict <= clean.OVERFLOW else None


def number(text: str | None) -> float | None:
    """Returns a number that is written as one; None for anything else; UnclearError for NaN and infinity in words."""
    if text is None or not NUMBER.fullmatch(text):
        if text is not None and text.strip().lower().lstrip("+-") in ("nan", "inf", "infinity"):
            raise UnclearError
        return None
    return float(text)


def teaches(boxes: Sequence[Box]) -> bool:
    """Says whether anything can be learned from boxes; if not, a reader may refuse them."""
    sizes = [(b[2] - b[0], b[3] - b[1]) for _, _, b, crowd in boxes if not crowd]
    fractions = all(max(b) <= 2 for _, _, b, _ in boxes)
    return any(min(size) >= 2 for size in sizes) and not fractions


def read(dataset: DetectionDataset) -> list[Box]:
    """Returns the boxes that a data set was read to have."""
    found = []
    for record in dataset.images:
        for box, label, crowd, _ in record.objects():
            found.append((record.file.name, dataset.class_names[label], tuple(box), crowd))
    return found


def compare(expected: Sequence[Box], actual: Sequence[Box]) -> str | None:
    """Returns the first difference of two lists of boxes in any order; None where there is none."""

    def rounded(boxes: Sequence[Box]) -> Counter[Any]:
        return Counter((f, n, tuple(round(v, 5) + 0.0 for v in b), bool(c)) for f, n, b, c in boxes)

    mine, theirs = rounded(expected), rounded(actual)
    if extra := list((theirs - mine).elements()):
        return f"a box that is none: {extra[0]} (of {len(extra)})"
    if missing := list((mine - theirs).elements()):
        return f"a box is lost: {missing[0]} (of {len(missing)})"
    return None


def finite(values: Sequence[float]) -> bool:
    """Says whether all values are finite."""
    return all(map(math.isfinite, values))
