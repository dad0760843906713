"""Category lists of two splits, or of a data set and a model: compared, and matched by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mimicdet.data.dataset import Category, DetectionDataset
from mimicdet.data.faults import FaultKind, FaultLog
from mimicdet.errors import UserError, nearest


def compare_categories(
    expected: Sequence[Category], actual: Sequence[Category], expected_from: Path, actual_from: Path, log: FaultLog
) -> None:
    """Logs every category that only one of the lists has (with the nearest name) or that differs in its id."""
    ids = {category.name: category.id for category in expected}
    other_ids = {category.name: category.id for category in actual}
    missing = [name for name in ids if name not in other_ids]
    kind = FaultKind.CATEGORIES_DIFFER
    for name, number in other_ids.items():
        problem = ""
        if name not in ids:
            near = did_you_mean(name, missing) or did_you_mean(name, list(ids))
            problem = f"is not in {expected_from}{near}; use the same names in both"
        elif number != ids[name]:
            problem = f"has id {number}, but {ids[name]} in {expected_from}; give it the same id in both"
        if problem:
            log.add(kind, actual_from, f"category {name!r}", problem)
    for name in missing:
        problem = f"category {name!r} of {expected_from} is missing; add it (objects it needs none)"
        log.add(kind, actual_from, "", problem)


def match_classes(dataset: DetectionDataset, categories: Sequence[Category]) -> DetectionDataset:
    """Returns the data set with its classes in the order of ``categories`` (a model's), matched by name.

    Ids stay the data set's own, which need not be the model's: the same set in COCO and YOLO form numbers its classes
    differently. A class that the data set does not have (a small VOC split may lack a rare one) is added, without
    objects and with an unused id.

    Raises:
        UserError: the data set has a class that the model does not know.
    """
    own = {category.name: category for category in dataset.categories}
    names = [category.name for category in categories]
    unknown = next((name for name in own if name not in names), None)
    if unknown is not None:
        raise UserError(
            f"{dataset.root}: the model does not know the class '{unknown}'{did_you_mean(unknown, names)}; "
            f"it knows {', '.join(names)}"
        )
    free = max((category.id for category in dataset.categories), default=0) + 1
    added = {name: Category(free + i, name) for i, name in enumerate(name for name in names if name not in own)}
    matched = tuple((own | added)[name] for name in names)
    new_label = np.array([names.index(category.name) for category in dataset.categories], dtype=np.int64)
    images = tuple(dataclasses.replace(record, labels=new_label[record.labels]) for record in dataset.images)
    return dataclasses.replace(dataset, categories=matched, images=images)


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Returns " (did you mean 'fish'?)" with the name most like ``name``, or nothing if none is."""
    near = nearest(name, names)
    return f" (did you mean {near!r}?)" if near else ""
