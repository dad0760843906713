"""What every data format is read into: categories, image records, one data set.

Boxes are ``x1, y1, x2, y2`` in pixels of the upright image (EXIF orientation applied),
``0 <= x1 < x2 <= width``. Labels are class indices ``0..K-1`` in the order of ``categories``;
the data set's own category ids, gaps and all, live in ``categories`` and come back in results.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Category:
    """One class: its id as the data set numbers it, and its name."""

    id: int
    name: str


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One image and its objects (M of them)."""

    id: int
    file: Path
    height: int
    width: int
    boxes: np.ndarray  # (M, 4) float64, x1 y1 x2 y2 in pixels
    labels: np.ndarray  # (M,) int64, index into DetectionDataset.categories
    crowd: np.ndarray  # (M,) bool, COCO's iscrowd: a region of many objects, never a target
    areas: np.ndarray  # (M,) float64, the area that COCO's small/medium/large go by


@dataclass(frozen=True, eq=False)
class DetectionDataset:
    """One split of a data set, clean: what ``check`` let through."""

    root: Path
    split: str
    format: str  # "coco", "voc" or "yolo"
    categories: tuple[Category, ...]
    images: tuple[ImageRecord, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(category.name for category in self.categories)

    def to_coco(self) -> dict[str, Any]:
        """The split as a COCO ground-truth dictionary, with the original image and category ids."""
        annotations: list[dict[str, Any]] = []
        for record in self.images:
            for box, label, crowd, area in zip(
                record.boxes.tolist(), record.labels.tolist(), record.crowd.tolist(), record.areas.tolist(),
                strict=True,
            ):  # fmt: skip
                x1, y1, x2, y2 = box
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
