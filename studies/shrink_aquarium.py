"""Makes the studies' data of Roboflow's export of its aquarium photographs.

    python studies/shrink_aquarium.py EXPORT aquarium_512

EXPORT is the unpacked export in COCO form, without augmentation (docs/data.md). The copy's photographs have a long side
of 512 pixels and bear their names without the export's additions, as those that docs/results.md was measured on.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

LONG_SIDE = 512
QUALITY = 85
SPLITS = ("train", "valid", "test")
ADDITIONS = re.compile(r"(_jpe?g)+\.rf\.[0-9a-f]+$")
"""What an export adds to a photograph's name: IMG_2289_jpeg_jpg.rf.a56bc9be for IMG_2289."""


def shrink(export: Path, split: str, out: Path) -> None:
    """Writes ``out/SPLIT.json`` and the photographs in ``out/SPLIT`` from those in ``export/SPLIT``."""
    source = json.loads((export / split / "_annotations.coco.json").read_text(encoding="utf-8"))
    (out / split).mkdir(parents=True)
    scales, images = {}, []
    for image in tqdm(source["images"], desc=split, disable=not sys.stderr.isatty()):
        name = ADDITIONS.sub("", Path(image["file_name"]).stem) + ".jpg"
        with Image.open(export / split / image["file_name"]) as opened:
            scale = LONG_SIDE / max(opened.size)
            size = (round(opened.width * scale), round(opened.height * scale))
            opened.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(out / split / name, quality=QUALITY)
        scales[image["id"]] = scale
        images.append({"id": image["id"], "file_name": name, "width": size[0], "height": size[1]})
    boxes = [_scaled(box, scales[box["image_id"]]) for box in source["annotations"] if min(box["bbox"][2:]) > 0]
    parents = {one.get("supercategory") for one in source["categories"]}  # listed among the classes, without objects
    classes = [one for one in source["categories"] if one["name"] not in parents]
    written = {"images": images, "annotations": boxes, "categories": classes}
    (out / f"{split}.json").write_text(json.dumps(written), encoding="utf-8")


def _scaled(box: dict[str, Any], scale: float) -> dict[str, Any]:
    x, y, width, height = (round(value * scale, 2) for value in box["bbox"])
    kept = {key: box[key] for key in ("id", "image_id", "category_id")}
    return {**kept, "bbox": [x, y, width, height], "area": width * height, "iscrowd": box.get("iscrowd", 0)}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    EXPORT, OUT = map(Path, sys.argv[1:])
    if missing := [s for s in SPLITS if not (EXPORT / s / "_annotations.coco.json").is_file()]:
        raise SystemExit(f"{EXPORT} has no {missing[0]}/_annotations.coco.json; give the unpacked export in COCO form")
    if OUT.exists():
        raise SystemExit(f"{OUT} is there already; remove it or name another folder")
    for each in SPLITS:
        shrink(EXPORT, each, OUT)
