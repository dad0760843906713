"""YOLO: one text file an image, and a YAML file. Crowd has no place in it and is left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from mimicdet.data.dataset import DetectionDataset, ImageRecord

IMAGES = "images/{split}"


def write(out: Path, datasets: Mapping[str, DetectionDataset]) -> None:
    """Writes ``out/labels/train/*.txt`` and so on, and ``out/data.yaml``; boxes are fractions of the image's sides."""
    for split, dataset in datasets.items():
        folder = out / "labels" / split
        folder.mkdir(parents=True)
        for record in dataset.images:
            (folder / f"{record.file.stem}.txt").write_text(_lines(record), encoding="utf-8")
    names = next(iter(datasets.values())).class_names
    document = {split: f"images/{split}" for split in datasets} | {"names": dict(enumerate(names))}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    (out / "data.yaml").write_text(text, encoding="utf-8")


def _lines(record: ImageRecord) -> str:
    height, width = record.size
    lines = []
    for (x1, y1, x2, y2), label, crowd, _ in record.objects():
        if not crowd:
            center = (x1 + x2) / 2 / width, (y1 + y2) / 2 / height
            lines.append(" ".join(map(str, (label, *center, (x2 - x1) / width, (y2 - y1) / height))) + "\n")
    return "".join(lines)
