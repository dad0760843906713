"""Reads and writes COCO: one JSON file a split, with `images`, `annotations` and `categories`.

Layouts found in a folder DIR (a path to one JSON file works as well):

- DIR/train.json, images in DIR/train/ (or DIR/images/train/, DIR/images/, DIR itself);
- DIR/annotations/instances_train2017.json, images in DIR/train2017/ (or DIR/images/train2017/, ...);
- DIR/train/_annotations.coco.json beside its images (Roboflow);
- DIR with a single JSON file of any name: one split, called train unless the file's name speaks of another.

- annotations/image_info_test-dev2017.json, where there is nothing else: a split without annotations.

Read from a record: `id`, `file_name`, `width`, `height`; `image_id`, `category_id`, `bbox`, `iscrowd`, `area`
(width times height where missing). Other fields of an annotation, such as `segmentation` and `keypoints`, are counted
where they say something, and not used; `ignore` makes no crowd region, as in pycocotools. Ids are whole numbers of 64
bits and may have gaps; classes are ordered by id. A category that others name as `supercategory`, of which no split has
an object, is a heading (Roboflow's id 0) and no class.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from mimicdet.data.dataset import Category, DetectionDataset
from mimicdet.data.decode import find_same_image, images_among
from mimicdet.data.faults import Fault, FaultKind, FaultLog
from mimicdet.data.folders import list_names
from mimicdet.data.json_kind import may_be_annotations
from mimicdet.data.raw import RawImage, RawSplit, Source, SplitSources, clean_name, read_text, unique_fields
from mimicdet.data.split_names import name_splits, split_word
from mimicdet.errors import UserError, one_line

IMAGES = "{split}"
_INFO, _ROBOFLOW = "image_info_", "_annotations.coco.json"
_MOST_JSON = 100  # where there are more, it is one beside each image, and none is looked into
_USED = frozenset(("id", "image_id", "category_id", "bbox", "area", "iscrowd", "num_keypoints"))
_IMAGE_LABELS = ("neg_category_ids", "not_exhaustive_category_ids")  # of LVIS
_NUMBERS = frozenset((int, float))  # by exact type: JSON's true is a bool, and no number


def find(path: Path, *, other_json: bool = False) -> dict[str, Source] | None:
    """Returns the COCO splits at a path, or None if it does not look like COCO.

    It looks at names, and leaves out JSON that can be no annotations unless ``other_json`` is to be taken for some.
    """
    if path.is_file():
        return _sources(path.parent, _single(path)) if path.suffix.lower() == ".json" else None
    top, inner = _json_files(path, other_json), _json_files(path / "annotations", other_json)
    for files in (top, inner):
        annotated = [file for file in files if not file.stem.startswith(_INFO)] or files
        if named := name_splits((file.stem.removeprefix(_INFO), file) for file in annotated):
            return _sources(path, named)
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir() and split_word(folder.name))
    beside = [(folder.name, _json_files(folder, other_json)) for folder in folders]
    beside = [(name, [file for file in files if file.name == _ROBOFLOW] or files) for name, files in beside]
    if named := name_splits((name, files[0]) for name, files in beside if len(files) == 1):
        return _sources(path, named)
    for files in (top, inner):
        if len(files) == 1:
            return _sources(path, _single(files[0]))
    return None


def _single(file: Path) -> dict[str, Path]:
    word = split_word(file.stem.removeprefix(_INFO))
    return {word[0] if word else "train": file}


def _sources(root: Path, files: dict[str, Path]) -> dict[str, Source]:
    return {split: Source("coco", root, split, file, _image_folders(file, split)) for split, file in files.items()}


def _image_folders(file: Path, split: str) -> tuple[Path, ...]:
    """Returns the folders in which the images of a JSON file may lie, most specific first."""
    home = file.parent
    homes = (home, home.parent) if home.name.lower() == "annotations" else (home,)
    stem = file.stem.removeprefix("instances_").removeprefix(_INFO)
    names = dict.fromkeys((stem, file.stem, split, stem.replace("-dev", "")))
    places = [place for name in names for place in (f"{name}/images", name, f"images/{name}")] + ["images", "."]
    folders = dict.fromkeys(base / place for base in homes for place in places)
    return tuple(folder for folder in folders if folder.is_dir())


def read(sources: SplitSources, split: str, log: FaultLog, *, annotated: bool = True) -> RawSplit:
    """Reads the split's records. Faulty ones go into ``log``; UserError when the file as a whole cannot be read.

    Where it need not be ``annotated``, a file without the list `annotations` has no objects.
    """
    source = sources.splits[split]
    document = _load(source.annotations, annotated)
    entries = _without_headings(document, sources, split, log)
    raw = RawSplit(source, _categories(source.annotations, entries))
    _read_annotations(raw, document["annotations"], _read_images(raw, document["images"], log), log)
    return raw


def _load(file: Path, annotated: bool = True) -> dict[str, Any]:
    try:
        document = json.loads(read_text(file), object_pairs_hook=unique_fields)
    except json.JSONDecodeError as error:
        problem = f"is not valid JSON ({error.msg}, line {error.lineno} column {error.colno})"
        raise UserError(f"{file}: {problem}; write it again, or restore a complete copy") from None
    except ValueError as error:  # a field given twice, or a whole number with thousands of digits
        raise UserError(f"{file}: is not usable JSON ({error}); correct it") from None
    except RecursionError:
        raise UserError(f"{file}: is nested too deeply to be COCO JSON; check that it is the right file") from None
    if isinstance(document, list):
        problem = "holds a list, not COCO ground truth (images, annotations, categories)"
        way_out = "detection results cannot stand in for annotations, give the annotation file"
        raise UserError(f"{file}: {problem}; {way_out}")
    if isinstance(document, dict) and not annotated:
        document.setdefault("annotations", [])
    for key in ("images", "annotations", "categories"):
        if not isinstance(document, dict) or not isinstance(document.get(key), list):
            raise UserError(f"{file}: has no list {key!r}, which COCO annotations need; add it, or give the right file")
    return document


def _without_headings(document: dict[str, Any], sources: SplitSources, split: str, log: FaultLog) -> list[Any]:
    """Returns the entries of the categories but headings of others, which no split uses and which are counted."""
    if not document["categories"]:
        return []
    entries, file = document["categories"], sources.splits[split].annotations
    pairs = [(e.get("name"), e.get("supercategory")) if isinstance(e, dict) else (None, None) for e in entries]
    named, above = (Counter(text for text in texts if isinstance(text, str)) for texts in zip(*pairs, strict=True))
    tops = []
    for entry, (name, over) in zip(entries, pairs, strict=True):
        itself = name == over
        if isinstance(name, str) and above[name] > itself and not (isinstance(over, str) and named[over] > itself):
            tops.append((entry, above[name] - itself))
    if not tops:
        return entries
    used = _used(document)
    sources.known[split] = used
    for name, source in sources.splits.items():
        used = used | sources.once(name, partial(_used_in, source.annotations))
    headings = []
    for entry, below in tops:
        # Without annotations, only Roboflow's way to write it tells a heading from a class
        roboflow = entry.get("supercategory") in (None, "", "none") and below == len(entries) - 1
        if _integer(entry.get("id")) not in used and (used or roboflow):
            headings.append(entry)
            problem = "is the supercategory of others and has no objects in any split, so it is no class"
            log.add(FaultKind.HEADING, file, f"category {entry['name']!r} (id {entry.get('id')!r})", problem)
    left_out = set(map(id, headings))
    return [entry for entry in entries if id(entry) not in left_out]


def _used_in(file: Path) -> set[int | None]:
    with suppress(UserError):  # reported when that split is read
        return _used(_load(file, annotated=False))
    return set()


def _used(document: dict[str, Any]) -> set[int | None]:
    return {_integer(entry.get("category_id")) for entry in document["annotations"] if isinstance(entry, dict)}


def _categories(file: Path, entries: list[Any]) -> tuple[Category, ...]:
    if not entries:
        raise UserError(f"{file}: lists no categories; add at least one")
    names, taken = dict[int, str](), set[str]()
    for position, entry in enumerate(entries):
        item = f"categories[{position}]"
        number = _integer(entry.get("id")) if isinstance(entry, dict) else None
        if number is None or not isinstance(entry.get("name"), str):
            name = f" and the name {entry.get('name')!r:.40}" if isinstance(entry, dict) else ""
            problem = f"needs a whole number `id` and a text `name`, and has the id {_id_of(entry)}{name}"
            raise UserError(f"{file}: {item}: {problem}; correct them")
        name = clean_name(entry["name"], file, item)
        if number in names:
            raise UserError(f"{file}: {item}: id {number} is also that of {names[number]!r}; give each its own id")
        if name in taken:
            raise UserError(f"{file}: {item}: there are two categories named {name!r}; merge or rename them")
        names[number] = name
        taken.add(name)
    return tuple(Category(number, names[number]) for number in sorted(names))


def _read_images(raw: RawSplit, entries: list[Any], log: FaultLog) -> dict[int, int | None]:
    """Appends the images; returns for each image id its row, None for one whose file is missing or faulty."""
    file, folders = raw.source.annotations, raw.source.images
    rows: dict[int, int | None] = {}
    owners: dict[Hashable, int] = {}
    for position, entry in enumerate(entries):
        number = _integer(entry.get("id")) if isinstance(entry, dict) else None
        if number is None:
            problem = f"needs a whole number `id` of 64 bits at most, and has {_id_of(entry)}; correct it"
            log.add(FaultKind.BROKEN_RECORD, file, f"images[{position}]", problem)
            continue
        item = f"image {number}"
        if number in rows:
            log.add(FaultKind.DUPLICATE_IMAGE, file, item, "this id is used twice; give each image its own")
            continue
        rows[number] = None
        name, sides = entry.get("file_name"), (entry.get("height"), entry.get("width"))
        if not isinstance(name, str) or not name.strip():
            log.add(FaultKind.BROKEN_RECORD, file, item, "needs a `file_name`; add it")
            continue
        item = f"image {number} ({name})"
        recorded = _size(sides)
        if recorded is None and sides != (None, None):
            problem = "width {1!r} and height {0!r} must be positive whole numbers; correct or remove them"
            log.add(FaultKind.BROKEN_RECORD, file, item, problem.format(*sides))
            continue
        image = find_same_image(name, folders)
        if image is None:
            problem = f"there is no such file in {', '.join(map(str, folders))}; "
            problem += "put it there, correct `file_name`, or remove the image"
            log.add(FaultKind.MISSING_IMAGE, file, item, problem)
            continue
        found, identity = image
        if identity in owners:
            problem = f"image {owners[identity]} is the same file; give all its objects to one of them"
            log.add(FaultKind.SHARED_IMAGE, file, item, problem)
        owners[identity] = number
        raw.unused.update(key for key in _IMAGE_LABELS if entry.get(key))
        rows[number] = len(raw.images)
        raw.images.append(RawImage(number, found, recorded, file, item))
    return rows


def _read_annotations(raw: RawSplit, entries: list[Any], rows: dict[int, int | None], log: FaultLog) -> None:
    file, seen = raw.source.annotations, set[Any]()
    labels = {category.id: label for label, category in enumerate(raw.categories)}
    for position, entry in enumerate(entries):
        item = f"annotations[{position}]"
        if not isinstance(entry, dict):
            log.add(FaultKind.BROKEN_RECORD, file, item, "is not an object with fields; correct it")
            continue
        number = _integer(entry.get("id"))
        if number is None and entry.get("id") is not None:
            problem = f"needs a whole number `id` of 64 bits at most or none, and has {_id_of(entry)}; correct it"
            log.add(FaultKind.BROKEN_RECORD, file, item, problem)
            continue
        if number is not None:
            item = f"annotation {number}"
            if number in seen:
                problem = "this id is used twice; give each annotation its own, or remove the double"
                log.add(FaultKind.DUPLICATE_ANNOTATION, file, item, problem)
                continue
            seen.add(number)
        image_id, category_id = _integer(entry.get("image_id")), _integer(entry.get("category_id"))
        box, crowd = _corners(entry.get("bbox")), entry.get("iscrowd")
        if image_id is None or category_id is None:
            given = ", ".join(f"{key} {entry.get(key)!r:.40}" for key in ("image_id", "category_id"))
            problem = f"needs whole numbers `image_id` and `category_id` of 64 bits at most, and has {given}"
            problem += "; correct them"
            log.add(FaultKind.BROKEN_RECORD, file, item, problem)
        elif image_id not in rows:
            problem = f"image_id {image_id} is not among `images`; correct it, or remove the annotation"
            log.add(FaultKind.UNKNOWN_IMAGE, file, item, problem)
        elif category_id not in labels:
            known = ", ".join(map(str, islice(labels, 10))) + (", ..." if len(labels) > 10 else "")
            problem = f"category_id {category_id} is not among the categories ({known})"
            log.add(FaultKind.UNKNOWN_CATEGORY, file, item, f"{problem}; correct it, or add the category")
        elif box is None:
            problem = "needs a `bbox` of four numbers [x, y, width, height]; correct it, or remove the annotation"
            if others := [name for name in ("segmentation", "keypoints") if entry.get(name)]:
                problem += f" (its {' and '.join(others)} cannot stand in for a box)"
            log.add(FaultKind.BROKEN_RECORD, file, item, problem)
        elif crowd not in (None, 0, 1):
            log.add(FaultKind.BROKEN_RECORD, file, item, f"iscrowd is {crowd!r}; it must be 0 or 1")
        elif (row := rows[image_id]) is not None:
            raw.add(row, box, labels[category_id], item, crowd=bool(crowd), area=_area(entry.get("area")))
            raw.unused.update(key for key in entry.keys() - _USED if _has_value(entry[key]))


def _size(sides: tuple[Any, Any]) -> tuple[int, int] | None:
    """Returns a recorded height and width; None for anything but two positive whole numbers."""
    height, width = map(_integer, sides)
    return (height, width) if height and width and min(height, width) >= 1 else None


def _corners(box: Any) -> tuple[float, float, float, float] | None:
    """Returns x1 y1 x2 y2 of a list x y width height; None for anything that is no list of four numbers."""
    if not isinstance(box, list) or len(box) != 4 or not _NUMBERS.issuperset(map(type, box)):
        return None
    try:
        x, y, width, height = map(float, box)
    except OverflowError:  # whole numbers of hundreds of digits
        return math.inf, math.inf, math.inf, math.inf
    return x, y, x + width, y + height


def _area(value: Any) -> float:
    """Returns a recorded area; NaN, which stands for none, for anything that is no usable number."""
    try:
        return float(value) if type(value) in _NUMBERS else math.nan
    except OverflowError:
        return math.nan


def _integer(value: Any) -> int | None:
    """Returns a whole number of 64 bits, also one written as 3.0; None for anything else."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:  # above, it stands for several numbers
        value = int(value)
    return value if type(value) is int and -(2**63) <= value < 2**63 else None  # not a bool


def _id_of(entry: Any) -> str:
    """Returns a record's faulty id for a message."""
    given = entry.get("id") if isinstance(entry, dict) else None
    return "none" if given is None else repr(given)[:40]


def _has_value(value: Any) -> bool:
    """Says whether a field says anything; keypoints of 0 and attributes that are all false do not."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return any(parts)


def _json_files(folder: Path, other_json: bool = True) -> list[Path]:
    files = sorted(f for f in folder.glob("*.json") if f.is_file() and f.name[0] != ".") if folder.is_dir() else []
    if other_json or len(files) > _MOST_JSON:
        return files
    return [file for file in files if may_be_annotations(file)]


def log_other_json(sources: SplitSources, log: FaultLog) -> None:
    """Logs JSON files that have a split's name and were left out by ``find``."""
    for folder in (sources.root, sources.root / "annotations") if sources.root.is_dir() else ():
        for file in _json_files(folder):
            if split_word(file.stem.removeprefix(_INFO)) and not may_be_annotations(file):
                problem = "holds no list `images` or `annotations`, so it is no split; correct it if it should be one"
                log.add(FaultKind.OTHER_JSON, file, "", problem)


def log_unlisted(sources: SplitSources, datasets: Sequence[DetectionDataset], log: FaultLog) -> None:
    """Logs how many images lie beside those of the data set, whose splits are all given, and are in none of them."""
    files = {record.file for dataset in datasets for record in dataset.images}
    folders = {folder: Path(os.path.realpath(folder)) for folder in {file.parent for file in files}}
    listed = {folders[file.parent] / file.name for file in files}
    there = {folder / name for folder in folders.values() for name in list_names(folder)}
    unlisted = sorted(images_among(there - listed)[0])
    if unlisted:
        problem = f"{len(unlisted)} images beside those of the splits are in no annotation file, such as "
        problem += ", ".join(one_line(file.name) for file in unlisted[:3])
        log.add_many(FaultKind.UNLISTED, len(unlisted), [Fault(FaultKind.UNLISTED, sources.root, "", problem)])


def write(out: Path, datasets: Mapping[str, DetectionDataset]) -> None:
    """Writes ``out/train.json`` and so on; category and image ids, areas and crowd are kept."""
    for split, dataset in datasets.items():
        text = json.dumps(dataset.to_coco(), ensure_ascii=False, allow_nan=False)
        (out / f"{split}.json").write_text(text + "\n", encoding="utf-8")
