"""Reads and writes YOLO: a text file an image, `class cx cy w h` a line as fractions of its sides, and one YAML file.

Layouts found in a folder DIR (a path to the YAML file works as well): DIR/data.yaml, or the only *.yaml with
`names` and splits. `names` is a list, or a mapping from 0..K-1; class ids are 0..K-1 in that order. `train`, `val`,
`test` each hold a folder of images, a text file that lists images, or a list of those, relative to `path` or to
the YAML file's folder (Roboflow's `../train/images` too).

The labels of images/train/a.jpg are labels/train/a.txt, of train/images/a.jpg train/labels/a.txt: the last folder
named `images` becomes `labels`. Failing that, they are beside the image. An image without a label file has no
objects. A line of more numbers, `class x1 y1 x2 y2 x3 y3 ...`, is a polygon; its bounding box is used.
"""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mimicdet.data.dataset import Category, DetectionDataset, ImageRecord
from mimicdet.data.decode import list_images
from mimicdet.data.faults import FaultKind, FaultLog
from mimicdet.data.raw import RawImage, RawSplit, Source, clean_name, first_repeated, read_text
from mimicdet.data.split_names import name_splits
from mimicdet.errors import UserError
from mimicdet.yaml_loader import BrokenYamlError, load_yaml

IMAGES = "images/{split}"


def find(path: Path) -> dict[str, Source] | None:
    """Returns the YOLO splits at a path, or None if it does not look like YOLO. It reads the YAML file only."""
    if path.is_file():
        return _sources(path, _load(path)) if path.suffix.lower() in (".yaml", ".yml") else None
    files = sorted(file for pattern in ("*.yaml", "*.yml") for file in path.glob(pattern) if file.is_file())
    files = [file for file in files if file.stem == "data"] or files
    candidates = [(file, _load(file)) for file in files if "names" in read_text(file)]
    found = [(file, document) for file, document in candidates if "names" in document and _splits(document)]
    if len(found) > 1:
        listed = ", ".join(str(file) for file, _ in found)
        raise UserError(f"{path}: several YAML files describe a data set; name the one that counts: {listed}")
    return _sources(*found[0]) if found else None


def _load(file: Path) -> dict[Any, Any]:
    try:
        document = load_yaml(read_text(file), data_set=True)
    except BrokenYamlError as error:
        where = f", line {error.line} column {error.column}" if error.line else ""
        raise UserError(f"{file}: is not valid YAML ({error}{where}); correct it") from None
    return document if isinstance(document, dict) else {}


def _splits(document: dict[Any, Any]) -> dict[str, Any]:
    return name_splits((key, value) for key, value in document.items() if isinstance(key, str) and value is not None)


def _sources(file: Path, document: dict[Any, Any]) -> dict[str, Source]:
    splits = _splits(document)
    if "names" not in document or not splits:
        raise UserError(f"{file}: does not describe a YOLO data set; it needs `names` and at least `train` or `val`")
    home, path = file.parent, document.get("path")
    root = Path(os.path.normpath(home / str(path))) if path is not None else home
    root = root if root.is_dir() else home
    sources = {}
    for split, value in splits.items():
        entries = value if isinstance(value, list) else [value]
        if not entries or not all(isinstance(entry, str) for entry in entries):
            raise UserError(f"{file}: `{split}` must be a folder, a file that lists images, or a list of those")
        images = tuple(_resolve(entry, (root, home)) for entry in entries)
        sources[split] = Source("yolo", root, split, annotations=file, images=images)
    return sources


def _resolve(entry: str, bases: tuple[Path, ...]) -> Path:
    """Returns an entry's path; where it exists nowhere, the path it should have had."""
    spellings = (entry, entry.removeprefix("../"))  # Roboflow's ../train/images lies beside its data.yaml
    paths = [Path(os.path.normpath(base / spelling)) for spelling in spellings for base in bases]
    return next((path for path in paths if path.exists()), paths[0])


def read(source: Source, log: FaultLog) -> RawSplit:
    """Reads the split's records. Faulty ones go into ``log``; UserError when names or the splits' folders are wrong."""
    raw = RawSplit(source, _categories(source.annotations), fractions=True)
    labelled, seen = 0, set[Path]()
    folders: dict[Path, set[str]] = {}  # label folders apart from the images', and the label files expected in them
    for image, listing, item in _image_files(source, log):
        if image in seen:
            log.add(FaultKind.DUPLICATE_IMAGE, listing, item, f"{image} is listed twice; list each image once")
            continue
        seen.add(image)
        usual = _label_file(image, source.root)
        if not listing.is_file() and usual.parent != image.parent:
            folders.setdefault(usual.parent, set()).add(usual.name)
        labels = usual if usual.is_file() else image.with_suffix(".txt")
        raw.images.append(RawImage(len(raw.images) + 1, image, None, labels, ""))
        if labels.is_file():
            labelled += 1
            _read_labels(raw, labels, log)
        else:
            problem = f"there is no {usual}, so the image counts as one without objects"
            log.add(FaultKind.NO_LABEL_FILE, image, "", problem)
    if raw.images and not labelled:
        problem = (
            f"no image has a label file ({_label_file(raw.images[0].file, source.root)} and so on); put them there"
        )
        log.add(FaultKind.MISSING_ANNOTATION, source.annotations, f"split {source.split}", problem)
    for folder, expected in folders.items():
        present = {file.name for file in folder.glob("*.txt")} if folder.is_dir() else set()
        for name in sorted(present - expected - {"classes.txt"}):
            log.add(FaultKind.MISSING_IMAGE, folder / name, "", "there is no image of this name; restore or remove it")
    return raw


def _categories(file: Path) -> tuple[Category, ...]:
    document = _load(file)
    names = document["names"]
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(f"{file}: `names` must number the classes 0, 1, 2, ... without gaps")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f"{file}: `names` must list at least one class")
    cleaned: list[str] = []
    for number, name in enumerate(names):
        if not isinstance(name, str) and (not isinstance(name, int | float) or isinstance(name, bool)):
            raise UserError(f"{file}: `names` entry {number} is {name!r}, not text; put the name in quotes")
        cleaned.append(clean_name(str(name), file, f"`names` entry {number}"))
    if (twice := first_repeated(cleaned)) is not None:
        raise UserError(f"{file}: there are two classes named {twice!r}; merge or rename them")
    if (count := document.get("nc")) is not None and count != len(cleaned):
        raise UserError(f"{file}: `nc` is {count!r}, but `names` lists {len(cleaned)} classes; correct one of them")
    return tuple(Category(number, name) for number, name in enumerate(cleaned))


def _image_files(source: Source, log: FaultLog) -> Iterator[tuple[Path, Path, str]]:
    """Yields the split's images, each with the folder or list it comes from and the item there."""
    for entry in source.images:
        if entry.is_dir():
            yield from ((image, entry, "") for image in list_images(entry))
        elif entry.is_file() and entry.suffix.lower() == ".txt":
            for number, line in enumerate(read_text(entry).splitlines(), start=1):
                if not (name := line.strip()):
                    continue
                paths = [Path(os.path.normpath(base / name)) for base in (entry.parent, source.root)]
                image = next((path for path in paths if path.is_file()), paths[0])
                if image.is_file():
                    yield image, entry, f"line {number}"
                else:
                    problem = f"there is no image {image}; restore it, or remove the line"
                    log.add(FaultKind.MISSING_IMAGE, entry, f"line {number}", problem)
        else:
            problem = f"`{source.split}` names {entry}, which is no folder and no .txt list of images"
            raise UserError(f"{source.annotations}: {problem}; correct it, or the `path` above it")


def _label_file(image: Path, root: Path) -> Path:
    """Returns the file where the image's labels belong. Folders above the data set's root are not looked at."""
    parts = list(image.parts)
    above = len(root.parts) if image.is_relative_to(root) else 0
    if last := [i for i in range(above, len(parts) - 1) if parts[i] == "images"]:
        parts[last[-1]] = "labels"
    return Path(*parts).with_suffix(".txt")


def _read_labels(raw: RawSplit, file: Path, log: FaultLog) -> None:
    try:
        lines = read_text(file).splitlines()
    except UserError as error:
        log.add_error(FaultKind.BROKEN_FILE, error)
        return
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        item = f"line {number}"
        try:
            first, *values = map(float, line.split())
        except ValueError:
            log.add(FaultKind.BROKEN_RECORD, file, item, f"{line.strip()[:60]!r} is not a line of numbers; correct it")
            continue
        if len(values) < 4 or (len(values) > 4 and (len(values) < 6 or len(values) % 2)):
            problem = f"has {len(values) + 1} numbers; a box has 5 (class cx cy w h) and a polygon an odd number from 7"
            way_out = "a sixth number is a prediction's score, remove it" if len(values) == 5 else "correct it"
            log.add(FaultKind.BROKEN_RECORD, file, item, f"{problem}; {way_out}")
        elif not (first.is_integer() and 0 <= first < (k := len(raw.categories))):
            problem = f"class {first:g} is not one of 0..{k - 1}, which {raw.source.annotations} names"
            log.add(FaultKind.UNKNOWN_CATEGORY, file, item, f"{problem}; correct it, or add its name there")
        else:
            if len(values) > 4:
                log.add(FaultKind.POLYGON, file, item, "is a polygon, of which the bounding box is used")
            raw.add(len(raw.images) - 1, _corners(values), int(first), item)


def _corners(values: list[float]) -> tuple[float, float, float, float]:
    """Returns x1 y1 x2 y2 of a box cx cy w h, or of a polygon of more numbers."""
    if len(values) == 4:
        cx, cy, width, height = values
        return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
    if not all(map(math.isfinite, values)):
        return math.nan, math.nan, math.nan, math.nan
    xs, ys = values[0::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)


def write(out: Path, datasets: Mapping[str, DetectionDataset]) -> None:
    """Writes ``out/labels/train/*.txt`` and so on, and ``out/data.yaml``; boxes are fractions of the image's sides."""
    for split, dataset in datasets.items():
        folder = out / "labels" / split
        folder.mkdir(parents=True)
        for record in dataset.images:
            (folder / f"{record.file.stem}.txt").write_text(_lines(record), encoding="utf-8")
    names = next(iter(datasets.values())).class_names
    document = {split: IMAGES.format(split=split) for split in datasets} | {"names": dict(enumerate(names))}
    (out / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _lines(record: ImageRecord) -> str:
    """Returns a line for each object but crowd, which has no place in YOLO."""
    height, width = record.size
    rows = [
        (label, (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        for (x1, y1, x2, y2), label, crowd, _ in record.objects()
        if not crowd
    ]
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)
