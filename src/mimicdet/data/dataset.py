"""Defines what every data format is read into, categories, image records, one data set, and matches classes by name.

Boxes are ``x1, y1, x2, y2`` in pixels of the upright image (EXIF orientation applied),
``0 <= x1 < x2 <= width``. Labels are class indices ``0..K-1`` in the order of ``categories``;
the data set's own category ids, gaps and all, live in ``categories`` and come back in results.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from mimicdet.data.faults import FaultKind, FaultLog
from mimicdet.errors import UserError, nearest


@dataclass(frozen=True)
class Category:
    """A category is a class with its id, as the data set numbers it, and its name."""

    id: int
    name: str


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """A record holds one image's file, size and M objects."""

    id: int
    file: Path
    height: int
    width: int
    boxes: np.ndarray  # (M, 4) float64, x1 y1 x2 y2 in pixels
    labels: np.ndarray  # (M,) int64, index into DetectionDataset.categories
    crowd: np.ndarray  # (M,) bool, COCO's iscrowd: a region of many objects, never a target
    areas: np.ndarray  # (M,) float64, the area that COCO's small/medium/large go by

    @property
    def size(self) -> tuple[int, int]:
        """Returns height and width."""
        return self.height, self.width

    def objects(self) -> Iterator[tuple[list[float], int, bool, float]]:
        """Yields box, class index, crowd flag and area of each object, as plain numbers."""
        return zip(*(column.tolist() for column in (self.boxes, self.labels, self.crowd, self.areas)), strict=True)


@dataclass(frozen=True, eq=False)
class DetectionDataset:
    """A data set holds one split, clean: all that ``check`` let through."""

    root: Path
    split: str
    format: str  # "coco", "voc" or "yolo"
    categories: tuple[Category, ...]
    images: tuple[ImageRecord, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Returns the names of the classes, in the order of their indices."""
        return tuple(category.name for category in self.categories)

    def to_coco(self) -> dict[str, Any]:
        """Returns the split as a COCO ground-truth dictionary, with the original image and category ids."""
        images = [{"id": r.id, "file_name": r.file.name, "width": r.width, "height": r.height} for r in self.images]
        annotations: list[dict[str, Any]] = []
        for record in self.images:
            for (x1, y1, x2, y2), label, crowd, area in record.objects():
                ids = {"id": len(annotations) + 1, "image_id": record.id, "category_id": self.categories[label].id}
                annotations.append(ids | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": area, "iscrowd": int(crowd)})
        categories = [{"id": c.id, "name": c.name} for c in self.categories]
        return {"images": images, "annotations": annotations, "categories": categories}


def fingerprint(dataset: DetectionDataset) -> str:
    """Returns a hash of a split's targets that does not depend on the format they are stored in.

    It is SHA-256 (64 hex digits) over what training sees: each image's file stem and size, and each object's class
    name, box (float32) and crowd flag. Ids, the order of images, objects and classes, and COCO's areas play no part,
    nor do the pixels.
    """
    names = [name.encode() for name in dataset.class_names]
    images = []
    for record in dataset.images:
        boxes = np.ascontiguousarray(record.boxes, dtype="<f4")
        objects = sorted(
            _joined(names[label], box.tobytes(), b"\1" if crowd else b"\0")
            for label, box, crowd in zip(record.labels.tolist(), boxes, record.crowd.tolist(), strict=True)
        )
        size = f"{record.height}x{record.width}".encode()
        images.append(_joined(record.file.stem.encode("utf-8", "surrogateescape"), size, *objects))
    return hashlib.sha256(_joined(*sorted(images))).hexdigest()


def _joined(*parts: bytes) -> bytes:
    """Joins the parts, each after its length, so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def compare_categories(
    expected: Sequence[Category], actual: Sequence[Category], expected_from: Path, actual_from: Path, log: FaultLog
) -> None:
    """Logs every category that only one of the lists has (with the nearest name) or that differs in its id."""
    ids = {category.name: category.id for category in expected}
    other_ids = {category.name: category.id for category in actual}
    missing, every = [name for name in ids if name not in other_ids], list(ids)
    kind = FaultKind.CATEGORIES_DIFFER
    for name, number in other_ids.items():
        item = f"category {name!r}"
        if name not in ids:
            near = (did_you_mean(name, missing) or did_you_mean(name, every)) if log.keeps(kind) else ""
            log.add(kind, actual_from, item, f"is not in {expected_from}{near}; use the same names in both")
        elif number != ids[name]:
            problem = f"has id {number}, but {ids[name]} in {expected_from}; give it the same id in both"
            log.add(kind, actual_from, item, problem)
    for name in missing:
        problem = f"category {name!r} of {expected_from} is missing; add it (objects it needs none)"
        log.add(kind, actual_from, "", problem)


def match_classes(dataset: DetectionDataset, categories: Sequence[Category]) -> DetectionDataset:
    """Returns the data set with its classes in the order of ``categories`` (a model's), matched by name.

    Ids stay the data set's own, which need not be the model's: the same set in COCO and YOLO form numbers its classes
    differently. A class that the data set does not have (a small VOC split may lack a rare one) is added, without
    objects and with an unused id. UserError: the data set has a class that the model does not know.
    """
    own = {category.name: category for category in dataset.categories}
    names = [category.name for category in categories]
    label = {name: number for number, name in enumerate(names)}
    unknown = next((name for name in own if name not in label), None)
    if unknown is not None:
        problem = f"the model does not know the class '{unknown}'{did_you_mean(unknown, names)}"
        raise UserError(f"{dataset.root}: {problem}; it knows {', '.join(names)}")
    missing = [name for name in names if name not in own]
    highest = max((category.id for category in dataset.categories), default=0)
    taken = {category.id for category in dataset.categories}
    # Above those that are taken, but within 64 bits
    free = (i for i in count(highest + 1 if highest + len(missing) < 2**63 else 1) if i not in taken)
    added = {name: Category(number, name) for name, number in zip(missing, free, strict=False)}
    own |= added
    matched = tuple(own[name] for name in names)
    new_label = np.array([label[category.name] for category in dataset.categories], dtype=np.int64)
    images = tuple(replace(record, labels=new_label[record.labels]) for record in dataset.images)
    return replace(dataset, categories=matched, images=images)


def did_you_mean(name: str, names: Sequence[str]) -> str:
    """Returns " (did you mean 'fish'?)" with the name most like ``name``, or nothing if none is."""
    near = nearest(name, names)
    return f" (did you mean {near!r}?)" if near else ""
