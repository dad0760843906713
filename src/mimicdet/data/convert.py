"""Writes a data set in another format; boxes, classes and splits survive to the last bit.

What each format can carry, besides images, boxes, class names and their order:

| | COCO | VOC | YOLO |
|---|---|---|---|
| category ids | kept | 1..K | 0..K-1 |
| image ids | kept | 1, 2, ... | 1, 2, ... |
| order of the images | kept | kept | by file name |
| crowd | kept | as `difficult` | left out, and counted |
| areas other than width x height | kept | lost | lost |
| split names | kept | kept | valid becomes val |

Images are copied as they are. An image whose name is taken (VOC keeps all splits in one folder) gets its split's
name in front. VOC output counts pixels from 0 and lists the classes, in their order, in classes.txt.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import yaml
from tqdm import tqdm

from mimicdet.data.dataset import DetectionDataset, ImageRecord
from mimicdet.data.decode import IMAGE_SUFFIXES
from mimicdet.data.formats.look import find_splits
from mimicdet.data.split_names import disjoint_splits, standard_name
from mimicdet.data.splits import load_dataset, require_same_categories
from mimicdet.errors import UserError


@dataclass(frozen=True)
class Conversion:
    """What `convert_dataset` wrote."""

    out: Path
    format: str
    images: dict[str, int]  # by split
    objects: dict[str, int]  # by split, crowd included where it was written
    crowd_left_out: int  # crowd regions that YOLO has no way to write: they became background

    def lines(self) -> list[str]:
        """The same for people to read."""
        lines = [f"{self.out}: {self.format.upper()}"]
        lines += [f"  {split}: {n} images, {self.objects[split]} objects" for split, n in self.images.items()]
        if self.crowd_left_out:
            lines.append(f"  {self.crowd_left_out} crowd regions left out: YOLO cannot mark them")
        return lines


def convert_dataset(
    path: str | Path,
    out: str | Path,
    to: Literal["coco", "voc", "yolo"],
    *,
    max_faulty_boxes: float = 0.05,
    voc_one_based: bool = False,
    progress: bool = True,
) -> Conversion:
    """Reads all splits at ``path`` and writes them to the folder ``out``, which must be new or empty.

    Boxes are written as `load_dataset` cleans them. ``voc_one_based`` says how to read VOC files, as there.
    The folder appears only when it is complete. Raises UserError for faulty data, an ``out`` that holds
    something, and a full disk.
    """
    out = Path(out).expanduser()
    if to not in _WRITERS:
        raise UserError(f"{out}: {to!r} is no format to write; choose one of {', '.join(_WRITERS)}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already and is not an empty folder; name a new one")
    sources = find_splits(path)
    datasets = {}
    for split in disjoint_splits(sources.splits):
        name = standard_name(split) if to == "yolo" else split
        if name is None:
            raise UserError(
                f"{sources.root}: split {split!r} cannot be written, since {to.upper()} tells splits by names such as "
                "train, val and test; rename it"
            )
        datasets[name] = load_dataset(
            sources.root, split, max_faulty_boxes=max_faulty_boxes, voc_one_based=voc_one_based
        )
    require_same_categories(list(datasets.values()), sources)
    partial = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        named = _unique_names(datasets, shared_folder=to == "voc", known_suffix=to != "coco")
        _WRITERS[to](partial, named)
        folders = {split: partial / _IMAGE_FOLDERS[to].format(split=split) for split in named}
        _copy_images(datasets, named, folders, progress=progress)
        if out.exists():
            out.rmdir()  # empty
        os.replace(partial, out)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"{out}: the disk is full; free some space and convert again") from None
        raise UserError(f"{error.filename or out}: {error.strerror or error}; check paths and permissions") from None
    except UnicodeEncodeError as error:
        raise UserError(f"{sources.root}: the file name {error.object!r} is not valid Unicode; rename it") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Conversion(
        out=out,
        format=to,
        images={split: len(dataset) for split, dataset in datasets.items()},
        objects={split: sum(len(_written(to, r)) for r in dataset.images) for split, dataset in datasets.items()},
        crowd_left_out=sum(int(r.crowd.sum()) for d in datasets.values() for r in d.images) if to == "yolo" else 0,
    )


def _written(to: str, record: ImageRecord) -> list[int]:
    """Indices of the image's objects that the format can carry."""
    return [i for i, crowd in enumerate(record.crowd.tolist()) if not (crowd and to == "yolo")]


def _unique_names(
    datasets: Mapping[str, DetectionDataset], *, shared_folder: bool, known_suffix: bool
) -> dict[str, DetectionDataset]:
    """The data sets with each image's file replaced by its new name; stems are unique in a folder."""
    named = {}
    taken: set[str] = set()
    for split, dataset in datasets.items():
        if not shared_folder:
            taken = set()
        images = []
        for record in dataset.images:
            if known_suffix and record.file.suffix.lower() not in IMAGE_SUFFIXES:
                raise UserError(f"{record.file}: its name does not end as an image's, such as .jpg; rename it")
            name, count = Path(record.file.name), 1
            while name.stem.casefold() in taken:
                prefix = split if count == 1 else f"{split}_{count}"
                name, count = Path(f"{prefix}_{record.file.name}"), count + 1
            taken.add(name.stem.casefold())
            images.append(dataclasses.replace(record, file=name))
        named[split] = dataclasses.replace(dataset, images=tuple(images))
    return named


def _copy_images(
    datasets: Mapping[str, DetectionDataset],
    named: Mapping[str, DetectionDataset],
    folders: Mapping[str, Path],
    *,
    progress: bool,
) -> None:
    pairs = [
        (record.file, folders[split] / new.file)
        for split in datasets
        for record, new in zip(datasets[split].images, named[split].images, strict=True)
    ]
    hide = not (progress and sys.stderr.isatty())
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    for source, target in tqdm(pairs, desc="copy", unit="image", disable=hide, leave=False):
        shutil.copyfile(source, target)


def _write_coco(out: Path, datasets: Mapping[str, DetectionDataset]) -> None:
    for split, dataset in datasets.items():
        text = json.dumps(dataset.to_coco(), ensure_ascii=False, allow_nan=False)
        (out / f"{split}.json").write_text(text + "\n", encoding="utf-8")


def _write_yolo(out: Path, datasets: Mapping[str, DetectionDataset]) -> None:
    for split, dataset in datasets.items():
        folder = out / "labels" / split
        folder.mkdir(parents=True)
        for record in dataset.images:
            lines = []
            for i in _written("yolo", record):
                x1, y1, x2, y2 = record.boxes[i].tolist()
                fractions = (
                    (x1 + x2) / 2 / record.width, (y1 + y2) / 2 / record.height,
                    (x2 - x1) / record.width, (y2 - y1) / record.height,
                )  # fmt: skip
                lines.append(" ".join(map(str, (int(record.labels[i]), *fractions))) + "\n")
            (folder / f"{record.file.stem}.txt").write_text("".join(lines), encoding="utf-8")
    names = next(iter(datasets.values())).class_names
    document = {split: f"images/{split}" for split in datasets} | {"names": dict(enumerate(names))}
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    (out / "data.yaml").write_text(text, encoding="utf-8")


def _write_voc(out: Path, datasets: Mapping[str, DetectionDataset]) -> None:
    annotations, lists = out / "Annotations", out / "ImageSets" / "Main"
    annotations.mkdir()
    lists.mkdir(parents=True)
    for split, dataset in datasets.items():
        for record in dataset.images:
            tree = _voc_tree(record, dataset.class_names)
            tree.write(annotations / f"{record.file.stem}.xml", encoding="utf-8")
        stems = "".join(f"{record.file.stem}\n" for record in dataset.images)
        (lists / f"{split}.txt").write_text(stems, encoding="utf-8")
    names = next(iter(datasets.values())).class_names
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _voc_tree(record: ImageRecord, names: tuple[str, ...]) -> ElementTree.ElementTree:
    root = ElementTree.Element("annotation")

    def put(parent: ElementTree.Element, tag: str, text: object) -> None:
        ElementTree.SubElement(parent, tag).text = str(text)

    put(root, "folder", "JPEGImages")
    put(root, "filename", record.file)
    size = ElementTree.SubElement(root, "size")
    put(size, "width", record.width)
    put(size, "height", record.height)
    put(size, "depth", 3)
    for box, label, crowd in zip(record.boxes.tolist(), record.labels.tolist(), record.crowd.tolist(), strict=True):
        element = ElementTree.SubElement(root, "object")
        put(element, "name", names[label])
        put(element, "difficult", int(crowd))
        corners = ElementTree.SubElement(element, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            put(corners, tag, int(value) if value.is_integer() else value)  # many readers know whole numbers only
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)


_WRITERS = {"coco": _write_coco, "voc": _write_voc, "yolo": _write_yolo}
_IMAGE_FOLDERS = {"coco": "{split}", "voc": "JPEGImages", "yolo": "images/{split}"}
