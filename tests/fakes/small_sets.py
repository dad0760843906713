"""Small data sets on disk for the tests of formats, check and convert."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mimicdet.errors import UserError

SHARED = Path(__file__).resolve().parents[2].parent / "shared"
BCCD = SHARED / "data" / "bccd_mini"
needs_bccd = pytest.mark.skipif(not BCCD.is_dir(), reason=f"needs the real images in {BCCD}")


def write_image(file: Path, width: int = 40, height: int = 30, *, mode: str = "RGB", **save: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (width, height), 1).save(file, **save)
    return file


def coco_document(
    boxes: Sequence[Sequence[float]] = ((1, 2, 10, 12), (5, 6, 20, 8)),
    names: Sequence[str] = ("cat", "dog"),
    **image: Any,
) -> dict[str, Any]:
    """One image a.png of 40 x 30 with boxes x y w h, of the classes (ids 3, 6, ...) in turn."""
    return {
        "images": [{"id": 7, "file_name": "a.png", "width": 40, "height": 30, **image}],
        "annotations": [
            {"id": n, "image_id": 7, "category_id": 3 + 3 * (n % len(names)), "bbox": list(box), "iscrowd": 0}
            for n, box in enumerate(boxes)
        ],
        "categories": [{"id": 3 + 3 * n, "name": name} for n, name in enumerate(names)],
    }


def write_coco(root: Path, split: str = "train", document: Any = None) -> Path:
    """root/SPLIT.json and root/SPLIT/a.png; returns the JSON's path."""
    write_image(root / split / "a.png")
    file = root / f"{split}.json"
    file.write_text(json.dumps(coco_document() if document is None else document))
    return file


def voc_xml(
    objects: Sequence[tuple[str, Sequence[object]]] = (("cat", (1, 2, 11, 14)), ("dog", (5, 6, 25, 14))),
    filename: str = "a.png",
    size: tuple[int, int] | None = (40, 30),
    extra: str = "",
) -> str:
    shape = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    body = "".join(
        f"<object><name>{name}</name>{extra}<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin>"
        f"<xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box in objects
    )
    return f"<annotation><filename>{filename}</filename>{shape}{body}</annotation>"


def write_voc(root: Path, xml: str | None = None, split: str = "train") -> Path:
    """root/SPLIT/a.xml beside a.png; returns the XML's path."""
    write_image(root / split / "a.png")
    file = root / split / "a.xml"
    file.write_text(voc_xml() if xml is None else xml)
    return file


def write_yolo(
    root: Path, labels: str = "0 0.15 0.25 0.25 0.4\n1 0.375 0.33 0.5 0.26\n", names: str = "[cat, dog]"
) -> Path:
    """root/data.yaml, root/images/train/a.png and its labels; returns the labels' path."""
    write_image(root / "images" / "train" / "a.png")
    file = root / "labels" / "train" / "a.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(labels)
    (root / "data.yaml").write_text(f"train: images/train\nnames: {names}\n")
    return file


def error_of(call: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
    """The message of the UserError that a call must raise; one line of text."""
    with pytest.raises(UserError) as caught:
        call(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message
