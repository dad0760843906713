"""A made-up data set in COCO form: bright rectangles on noise, the same bytes for the same seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("flat", "tall", "square")


def write_split(
    folder: Path, split: str, sizes: Sequence[tuple[int, int]], *, seed: int, objects: int = 4, crowd: bool = False
) -> Path:
    """Writes ``split.json`` and its images; every sixth from the second on has no objects, the last is a JPEG.

    Args:
        folder: of the data set; made where it is missing.
        sizes: height and width of each image in pixels.
        seed: of noise and objects.
        objects: of an image.
        crowd: the first object of the first image is a crowd.

    Returns:
        The folder of the images.
    """
    random = np.random.default_rng(seed)
    images = folder / split
    images.mkdir(parents=True)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (height, width) in enumerate(sizes, start=1):
        pixels = random.integers(0, 100, (height, width, 3), dtype=np.uint8)
        for _ in range(0 if number % 6 == 2 else objects):
            label = int(random.integers(len(CLASSES)))
            side = min(height, width)
            long, short = int(random.integers(side // 4, 9 * side // 10)), side // 6
            w, h = ((long, short), (short, long), (long, long))[label]
            x, y = int(random.integers(width - w)), int(random.integers(height - h))
            pixels[y : y + h, x : x + w, label] = 220
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": label + 1,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(crowd and not annotations),
                }
            )
        name = f"{number:03}.{'jpg' if number == len(sizes) else 'png'}"
        Image.fromarray(pixels).save(images / name)
        records.append({"id": number, "file_name": name, "height": height, "width": width})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, start=1)]
    content = {"images": records, "annotations": annotations, "categories": categories}
    (folder / f"{split}.json").write_text(json.dumps(content))
    return images
