"""COCO: one JSON file a split, beside a folder of its images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mimicdet.data.dataset import DetectionDataset

IMAGES = "{split}"


def write(out: Path, datasets: Mapping[str, DetectionDataset]) -> None:
    """Writes ``out/train.json`` and so on; category and image ids, areas and crowd are kept."""
    for split, dataset in datasets.items():
        text = json.dumps(dataset.to_coco(), ensure_ascii=False, allow_nan=False)
        (out / f"{split}.json").write_text(text + "\n", encoding="utf-8")
