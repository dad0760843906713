"""Finds and reads the splits of a data set in any format: the one way in for training, evaluation and `check`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mimicdet.arguments import checked
from mimicdet.data.clean import clean
from mimicdet.data.dataset import DetectionDataset, compare_categories
from mimicdet.data.decode import inspect_images
from mimicdet.data.faults import Fault, FaultKind, FaultLog
from mimicdet.data.formats import coco, voc, yolo
from mimicdet.data.inside import log_outside_files, log_outside_folders
from mimicdet.data.photograph import photograph_size
from mimicdet.data.raw import RawSplit, SplitSources
from mimicdet.data.split_names import resolve_split
from mimicdet.errors import UserError, near_path, one_line
from mimicdet.streams import require_plain

LAYOUTS = (
    "COCO (train.json with images in train/, annotations/instances_train2017.json, train/_annotations.coco.json, "
    "or one JSON file), YOLO (data.yaml with names and the splits' image folders), or PASCAL VOC (Annotations/*.xml "
    "with JPEGImages/, or train/*.xml beside the images)"
)

_NAMED = 8
"""So many unused fields are named; the names are anybody's."""


def find_splits(path: str | Path) -> SplitSources:
    """Finds the splits in a folder, COCO JSON or YOLO YAML file; UserError: no known layout, or several formats."""
    path = Path(path).expanduser()
    require_plain(path)
    if not os.path.exists(path):
        raise UserError(f"{path}: there is no such file or folder{near_path(path)}; give the data set's folder")
    finders = {"coco": coco.find, "yolo": yolo.find, "voc": voc.find}
    found = {name: splits for name, find in finders.items() if (splits := find(path))}
    if not found and (broken := yolo.find(path, empty=True) or coco.find(path, other_json=True)):
        found = {next(iter(broken.values())).format: broken}  # reading it says what is wrong
    if not found:
        raise UserError(f"{path}: holds no data set in a known layout; looked for {LAYOUTS}")
    if len(found) > 1:
        examples = " or ".join(str(next(iter(splits.values())).annotations) for splits in found.values())
        way_out = f"keep one of them, or name the file that counts instead of the folder: {examples}"
        raise UserError(f"{path}: holds annotations in several formats ({', '.join(found)}); {way_out}")
    return SplitSources(path, *found.popitem())


@checked()
def available_splits(path: str | Path) -> tuple[str, ...]:
    """Returns the names of a data set's splits as its files have them: train first, then val or valid, then test."""
    return tuple(find_splits(path).splits)


@checked()
def load_dataset(
    path: str | Path,
    split: str = "train",
    *,
    max_faulty_boxes: float = 0.05,
    voc_one_based: bool = False,
    outside: bool = False,
    annotated: bool = True,
    large: bool = False,
) -> DetectionDataset:
    """Reads one split of a data set in COCO, YOLO or PASCAL VOC format, told apart by looking.

    Every image's header is read; pixels are not decoded (see `mimicdet.data.check`). Boxes are cleaned by the rules
    of `mimicdet.data.clean`.

    ```python
    from mimicdet import load_dataset

    dataset = load_dataset("cells", "val")
    print(len(dataset), "images of", dataset.class_names)
    print(dataset.images[0].file, dataset.images[0].boxes, dataset.images[0].labels)
    ```

    Args:
        path: the data set's folder, a COCO .json or a YOLO .yaml file.
        split: its name or a usual alias (val, valid, validation); "valid+test" pools several: image ids are then
            numbered anew if they clash.
        max_faulty_boxes: more faulty boxes than this share, 0..1, are an error.
        voc_one_based: the VOC files count pixels from 1.
        outside: read files outside the data set's folder too, where annotations name such (see `mimicdet.data.inside`).
        annotated: False takes a COCO file that lists images without annotations, such as `image_info_test-dev2017`.
        large: images of more than 175 million pixels are taken too, which can be cut and evaluated in tiles alone.

    Raises:
        UserError: the data cannot be read, or is unfit for training; it names the first such fault.
    """
    how = {"voc_one_based": voc_one_based, "outside": outside, "annotated": annotated, "large": large}
    return load_found(find_splits(path), split, max_faulty_boxes=max_faulty_boxes, **how)


def load_found(sources: SplitSources, split: str, **how: Any) -> DetectionDataset:
    """Reads one split of a data set that is found already, as `load_dataset` does, with options as for `read_split`."""
    parts = []
    for name in resolve_split(split, sources.splits, sources.origin):
        dataset, log = read_split(sources, name, **how, decode=False, progress=False)
        raise_errors(log, sources.root)
        assert dataset is not None
        parts.append(dataset)
    return _pool(parts, sources)


def read_split(
    sources: SplitSources,
    split: str,
    *,
    max_faulty_boxes: float,
    voc_one_based: bool,
    outside: bool,
    decode: bool,
    progress: bool,
    annotated: bool = True,
    large: bool = False,
) -> tuple[DetectionDataset | None, FaultLog]:
    """Reads one split, clean (None where the annotations cannot be read at all), and everything that is wrong with it.

    The options are those of `load_dataset`; to ``decode`` is to read the images' pixels, not only their headers.
    """
    if not 0 <= max_faulty_boxes <= 1:
        raise UserError(f"max_faulty_boxes is a share from 0 to 1, not {max_faulty_boxes}")
    log, source = FaultLog(), sources.splits[split]
    if not outside:
        log_outside_folders(sources, source, log)
    if log.counts[FaultKind.OUTSIDE_FILE]:
        return None, log
    try:
        if sources.format == "voc":
            raw = voc.read(sources, split, log, one_based=voc_one_based)
        elif sources.format == "coco":
            raw = coco.read(sources, split, log, annotated=annotated)
        else:
            raw = yolo.read(source, log)
    except UserError as error:
        log.add_error(FaultKind.BROKEN_FILE, error)
        return None, log
    if raw.unused:
        _log_unused(raw, log)
    if not outside:
        log_outside_files(sources, raw, log)
    if log.counts[FaultKind.OUTSIDE_FILE]:
        return None, log  # not even the images' headers are read
    if sources.format != "coco":  # which has seen to it, for there an image has an id to be named by
        _log_shared_images(raw, log)
    if not raw.images and not log.count_errors():
        log.add(FaultKind.NO_IMAGES, source.annotations, "", f"split {split} has no images; add some")
    how: Any = {"decode": decode, "progress": progress, "size": photograph_size if large else None}
    found = inspect_images([image.file for image in raw.images], **how, label=split)
    return clean(raw, found, log, max_faulty_boxes=max_faulty_boxes), log


def raise_errors(log: FaultLog, root: Path) -> None:
    """Raises the log's first error as a UserError, which also says how many more there are."""
    if (first := log.first_error()) is not None:
        rest = f" (and {more} more: `mimicdet check {root}` lists them)" if (more := log.count_errors() - 1) else ""
        raise UserError(first.sentence() + rest)


def require_same_categories(parts: Sequence[DetectionDataset], sources: SplitSources) -> None:
    """Raises a UserError for the first difference between the categories of several splits."""
    log = FaultLog()
    compare_splits(parts, sources, log)
    raise_errors(log, sources.root)


def compare_splits(parts: Sequence[DetectionDataset], sources: SplitSources, log: FaultLog) -> None:
    """Logs every difference between the categories of the first split and those of the others."""
    for part in parts[1:]:
        first, file = (sources.splits[p.split].annotations for p in (parts[0], part))
        compare_categories(parts[0].categories, part.categories, first, file, log)


def log_left_out(sources: SplitSources, parts: Sequence[DetectionDataset], log: FaultLog) -> None:
    """Logs what lies in the folders of a data set, and none of its splits has; ``parts`` are the splits read."""
    if sources.format == "coco":
        coco.log_other_json(sources, log)
        if len(parts) == len(sources.splits):
            coco.log_unlisted(sources, parts, log)
    elif sources.format == "voc":
        voc.log_unlisted(sources, log)


def _log_shared_images(raw: RawSplit, log: FaultLog) -> None:
    """Logs images that are one file by a link, of which each has labels of its own."""
    owners: dict[tuple[int, int], Path] = {}
    for image in raw.images:
        try:
            found = os.stat(image.file)
        except OSError:
            continue  # reported when it is read
        if (owner := owners.setdefault((found.st_dev, found.st_ino), image.file)) is not image.file:
            problem = f"{owner} is the same file; give all its objects to one of them"
            log.add(FaultKind.SHARED_IMAGE, image.file, image.item, problem)


def _log_unused(raw: RawSplit, log: FaultLog) -> None:
    listed = [f"{one_line(name)}: {count}" for name, count in raw.unused.most_common(_NAMED)]
    more = [f"{len(raw.unused) - _NAMED} other fields"] if len(raw.unused) > _NAMED else []
    note = Fault(FaultKind.UNUSED, raw.source.annotations, f"split {raw.source.split}", ", ".join(listed + more))
    log.add_many(FaultKind.UNUSED, raw.unused.total(), [note])


def _pool(parts: Sequence[DetectionDataset], sources: SplitSources) -> DetectionDataset:
    """Joins several splits, whose categories must agree; image ids are numbered 1, 2, ... if they clash."""
    if len(parts) == 1:
        return parts[0]
    require_same_categories(parts, sources)
    images = tuple(image for part in parts for image in part.images)
    if len({image.id for image in images}) < len(images):
        images = tuple(replace(image, id=i) for i, image in enumerate(images, start=1))
    return replace(parts[0], split="+".join(part.split for part in parts), images=images)
