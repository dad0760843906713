"""Refuses data sets that somebody made by hand and that are not what ``mimicdet.data.dataset`` says they are."""

from collections.abc import Callable
from numbers import Integral
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mimicdet.data.dataset import Category, DetectionDataset, ImageRecord
from mimicdet.errors import UserError, writing

_BEYOND = 0.01
"""Boxes may reach so many pixels beyond the image, which is rounding."""


def require_sound(dataset: DetectionDataset) -> None:
    """Raises UserError that names the first image with values of the wrong kind, shape or range, and the value.

    Nothing is read from disk; 100,000 images take a second.
    """
    _require_sound_categories(dataset)
    if not isinstance(dataset.images, tuple | list):
        raise UserError(f"the images of a data set must be a tuple of ImageRecord, not {writing(dataset.images)}")
    for number, record in enumerate(dataset.images):
        if not isinstance(record, ImageRecord):
            raise UserError(f"image number {number} of the data set must be an ImageRecord, not {writing(record)}")
        fault = _fault_of(record)
        if fault is not None:
            _refuse(dataset, number, fault)
    if len(dataset.images):
        _require_unique_ids(dataset)
        _require_sound_objects(dataset)


def _refuse(dataset: DetectionDataset, number: int, fault: str) -> NoReturn:
    record = dataset.images[number]
    name = record.file if isinstance(record.file, Path) else f"image number {number}"
    raise UserError(f"{name}: {fault}; correct the data set that was made of it, or load it with load_dataset")


def _require_sound_categories(dataset: DetectionDataset) -> None:
    seen: tuple[set[object], set[object]] = set(), set()
    if not isinstance(dataset.categories, tuple | list):
        raise UserError(f"the categories of a data set must be a tuple, not {writing(dataset.categories)}")
    for category in dataset.categories:
        if not isinstance(category, Category) or not _is_id(category.id) or not isinstance(category.name, str):
            must = "an object of the class Category, its id a whole number of 64 bits and its name a text"
            raise UserError(f"a category of a data set must be {must}, not {writing(category)}")
        for values, value in zip(seen, (category.id, category.name), strict=True):
            if value in values:
                raise UserError(f"two categories of the data set are {writing(value)}; ids and names must differ")
            values.add(value)


def _is_id(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and -(2**63) <= int(value) < 2**63


def _fault_of(record: ImageRecord) -> str | None:
    """Says what is wrong with the kinds and shapes of a record, None where nothing is."""
    if not isinstance(record.file, Path):
        return f"its file must be a Path, not {writing(record.file)}"
    if not _is_id(record.id):
        return f"its id must be a whole number of 64 bits, not {writing(record.id)}"
    for name in ("height", "width"):
        side = getattr(record, name)
        if not _is_id(side) or side < 1:
            return f"its {name} must be a number of pixels from 1 up, not {writing(side)}"
    number = None
    for name, kinds, shape, said in _COLUMNS:
        column = getattr(record, name)
        if not isinstance(column, np.ndarray):
            return f"its {name} must be a numpy array, not {writing(column)}"
        number = column.shape[0] if number is None and column.ndim else number
        if column.shape != (number, *shape):
            return f"its {name} have the shape {column.shape}, which must be {(number or 'M', *shape)} as its boxes' is"
        if column.dtype.kind not in kinds:
            return f"its {name} must be {said}, not {column.dtype}"
    return None


_COLUMNS = (
    ("boxes", "fiu", (4,), "numbers"),
    ("labels", "iu", (), "whole numbers"),
    ("crowd", "b", (), "True or False"),
    ("areas", "fiu", (), "numbers"),
)


def _require_unique_ids(dataset: DetectionDataset) -> None:
    ids = np.array([record.id for record in dataset.images], dtype=np.int64)
    order = np.argsort(ids, kind="stable")
    again = np.flatnonzero(np.diff(ids[order]) == 0)
    if len(again):
        number = int(order[again[0] + 1])
        _refuse(dataset, number, f"its id {ids[number]} is another image's too")


def _require_sound_objects(dataset: DetectionDataset) -> None:
    """All objects at once, for a data set has many."""
    images = dataset.images
    number = np.repeat(np.arange(len(images)), [len(record.labels) for record in images])  # (N,), an object's image
    boxes, labels, areas = (np.concatenate([getattr(r, name) for r in images]) for name in ("boxes", "labels", "areas"))
    sides = np.array([(record.width, record.height) for record in images], dtype=np.float64)[number]
    classes = len(dataset.categories)
    tests: tuple[tuple[Any, Callable[[int], str]], ...] = (
        (
            (labels < 0) | (labels >= classes),
            lambda i: f"label {labels[i]} is none of its {classes} classes, from 0 up",
        ),
        (~np.isfinite(boxes).all(1), lambda i: f"the box {boxes[i].tolist()} has values that are no finite numbers"),
        ((boxes[:, 2:] <= boxes[:, :2]).any(1), lambda i: f"the box {boxes[i].tolist()} must be x1 y1 x2 y2 of a size"),
        (
            (boxes[:, :2] < -_BEYOND).any(1) | (boxes[:, 2:] > sides + _BEYOND).any(1),
            lambda i: f"the box {boxes[i].tolist()} reaches out of the image",
        ),
        (~(np.isfinite(areas) & (areas >= 0)), lambda i: f"the area {areas[i]} must be a finite number from 0 up"),
    )
    for wrong, told in tests:
        if wrong.any():
            first = int(wrong.argmax())
            _refuse(dataset, int(number[first]), told(first))
