"""studies/shrink_aquarium.py makes of an export the data that docs/results.md was measured on."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimicdet.data.dataset import fingerprint
from mimicdet.data.splits import load_dataset
from tests.fakes.small_sets import SHARED

SCRIPT = Path(__file__).parents[2] / "studies/shrink_aquarium.py"
COPY = SHARED / "data/aquarium_512"
SPLITS = ("train", "valid", "test")


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Two photographs of each split as they were exported: four and eight times as large, and one flat box besides."""
    for split in SPLITS:
        kept = json.loads((COPY / f"{split}.json").read_text())
        sizes = {image["source_width"]: image for image in kept["images"]}
        images = {image["id"]: image for image in (sizes[1536], sizes[4032])}
        boxes = []
        for box in kept["annotations"]:
            if (image := images.get(box["image_id"])) is not None:
                scale = image["source_width"] / image["width"]
                boxes.append({**box, "bbox": [round(2 * value * scale) / 2 for value in box["bbox"]]})
        boxes.append({**boxes[0], "id": 9999, "bbox": [5, 5, 0, 7]})
        (tmp_path / "export" / split).mkdir(parents=True)
        for image in images.values():
            with Image.open(COPY / split / image["file_name"]) as opened:
                large = opened.resize((image["source_width"], image["source_height"]))
            large.save(tmp_path / "export" / split / image["source_name"], quality=95)
        sizes_of = {i: {"width": one["source_width"], "height": one["source_height"]} for i, one in images.items()}
        own = [{"id": c["id"], "name": c["name"], "supercategory": "creatures"} for c in kept["categories"]]
        written = {
            "images": [{"id": i, "file_name": one["source_name"], **sizes_of[i]} for i, one in images.items()],
            "annotations": boxes,
            "categories": [{"id": 0, "name": "creatures", "supercategory": "none"}, *own],
        }
        (tmp_path / "export" / split / "_annotations.coco.json").write_text(json.dumps(written))
    return tmp_path / "export"


@pytest.mark.skipif(not COPY.is_dir(), reason="needs the aquarium photographs (docs/data.md)")
def test_the_copy_has_the_measured_ones_names_sizes_and_boxes(export: Path, tmp_path: Path) -> None:
    out = tmp_path / "aquarium_512"
    subprocess.run([sys.executable, str(SCRIPT), str(export), str(out)], check=True)
    for split in SPLITS:
        made, kept = load_dataset(out, split), load_dataset(COPY, split)
        assert made.class_names == kept.class_names
        names = {record.file.name for record in made.images}
        assert len(names) == 2
        part = replace(kept, images=tuple(record for record in kept.images if record.file.name in names))
        assert fingerprint(made) == fingerprint(part)
        for record in made.images:
            with Image.open(record.file) as shrunk, Image.open(COPY / split / record.file.name) as measured:
                difference = np.asarray(shrunk, np.float32) - np.asarray(measured, np.float32)
            assert np.abs(difference).mean() < 4  # of 255; enlarged, shrunk and compressed twice over


def test_what_is_no_export_is_told(tmp_path: Path) -> None:
    words = [sys.executable, str(SCRIPT), str(tmp_path), str(tmp_path / "out")]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 1
    assert f"{tmp_path} has no train/_annotations.coco.json" in ran.stderr
    assert not (tmp_path / "out").exists()
