"""Tells the format of a data set by looking at its files."""

from __future__ import annotations

from pathlib import Path

from mimicdet.data.formats import coco, voc, yolo
from mimicdet.data.raw import SplitSources
from mimicdet.errors import UserError

LAYOUTS = (
    "COCO (train.json with images in train/, annotations/instances_train2017.json, train/_annotations.coco.json, "
    "or one JSON file), YOLO (data.yaml with names and the splits' image folders), or PASCAL VOC (Annotations/*.xml "
    "with JPEGImages/, or train/*.xml beside the images)"
)

_FINDERS = {"coco": coco.find, "yolo": yolo.find, "voc": voc.find}


def find_splits(path: str | Path) -> SplitSources:
    """The format of the data set at a path (a folder, a COCO JSON or a YOLO YAML file) and where its splits lie.

    Raises UserError when there is nothing there, no known layout, or more than one format.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{path}: there is no such file or folder; give the data set's folder")
    found = {name: splits for name, finder in _FINDERS.items() if (splits := finder(path))}
    if not found:
        raise UserError(f"{path}: holds no data set in a known layout; looked for {LAYOUTS}")
    if len(found) > 1:
        examples = " or ".join(str(next(iter(splits.values())).annotations) for splits in found.values())
        raise UserError(
            f"{path}: holds annotations in several formats ({', '.join(found)}); keep one of them, or name the file "
            f"that counts instead of the folder: {examples}"
        )
    name, splits = next(iter(found.items()))
    return SplitSources(path, name, splits)
