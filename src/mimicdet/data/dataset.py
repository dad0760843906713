"""The form that every data format is read into: categories, image records, one data set.

Boxes are ``x1, y1, x2, y2`` in pixels of the upright image (EXIF orientation applied),
``0 <= x1 < x2 <= width``. Labels are class indices ``0..K-1`` in the order of ``categories``;
the data set's own category ids, gaps and all, live in ``categories`` and come back in results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


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
        columns = (self.boxes, self.labels, self.crowd, self.areas)
        return zip(*(column.tolist() for column in columns), strict=True)


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
        annotations: list[dict[str, Any]] = []
        for record in self.images:
            for (x1, y1, x2, y2), label, crowd, area in record.objects():
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": record.id,
                        "category_id": self.categories[label].id,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                        "area": area,
                        "iscrowd": int(crowd),
                    }
                )
        return {
            "images": [
                {"id": r.id, "file_name": r.file.name, "width": r.width, "height": r.height} for r in self.images
            ],
            "annotations": annotations,
            "categories": [{"id": c.id, "name": c.name} for c in self.categories],
        }


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
