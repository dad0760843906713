"""PASCAL VOC: one XML file an image, lists of the splits' images, and a list of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

from mimicdet.data.dataset import DetectionDataset, ImageRecord

IMAGES = "JPEGImages"


def write(out: Path, datasets: Mapping[str, DetectionDataset]) -> None:
    """Writes ``out/Annotations/*.xml``, ``out/ImageSets/Main/train.txt`` and so on, and ``out/classes.txt``.

    Coordinates count pixels from 0, and crowd is marked as difficult.
    """
    annotations, lists = out / "Annotations", out / "ImageSets" / "Main"
    annotations.mkdir()
    lists.mkdir(parents=True)
    for split, dataset in datasets.items():
        for record in dataset.images:
            tree = _tree(record, dataset.class_names)
            tree.write(annotations / f"{record.file.stem}.xml", encoding="utf-8")
        stems = "".join(f"{record.file.stem}\n" for record in dataset.images)
        (lists / f"{split}.txt").write_text(stems, encoding="utf-8")
    names = next(iter(datasets.values())).class_names
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _tree(record: ImageRecord, names: tuple[str, ...]) -> ElementTree.ElementTree:
    root = ElementTree.Element("annotation")

    def put(parent: ElementTree.Element, tag: str, text: object) -> None:
        ElementTree.SubElement(parent, tag).text = str(text)

    put(root, "folder", "JPEGImages")
    put(root, "filename", record.file)
    size = ElementTree.SubElement(root, "size")
    put(size, "width", record.width)
    put(size, "height", record.height)
    put(size, "depth", 3)
    for box, label, crowd, _ in record.objects():
        element = ElementTree.SubElement(root, "object")
        put(element, "name", names[label])
        put(element, "difficult", int(crowd))
        corners = ElementTree.SubElement(element, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            put(corners, tag, int(value) if value.is_integer() else value)  # many readers know whole numbers only
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)
