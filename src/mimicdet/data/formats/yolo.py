"""Reads and writes YOLO: a text file an image, `class cx cy w h` a line as fractions of its sides, and one YAML file.

Layouts found in a folder DIR (a path to the YAML file works as well): DIR/data.yaml, or the only *.yaml with
`names` and splits. `names` is a list, or a mapping from 0..K-1; class ids are 0..K-1 in that order. `train`, `val`,
`test` each hold a folder of images, a text file that lists images, or a list of those, relative to `path` or to
the YAML file's folder (Roboflow's `../train/images` too).

The labels of images/train/a.jpg are labels/train/a.txt, of train/images/a.jpg train/labels/a.txt: the last folder
named `images` becomes `labels`. Failing that, they are beside the image. An image without a label file has no
objects. A line of more numbers, `class x1 y1 x2 y2 x3 y3 ...`, is a polygon; its bounding box is used. Where the YAML
file has `kpt_shape: [N, 2]` or `[N, 3]`, it is a box `class cx cy w h` and N keypoints, which are not used.
"""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from mimicdet.data.dataset import Category, DetectionDataset, ImageRecord
from mimicdet.data.decode import images_among
from mimicdet.data.faults import Fault, FaultKind, FaultLog
from mimicdet.data.folders import list_names, walk_files
from mimicdet.data.raw import RawImage, RawSplit, Source, clean_name, first_repeated, read_number, read_text
from mimicdet.data.split_names import name_splits, split_word
from mimicdet.errors import UserError
from mimicdet.yaml_loader import BrokenYamlError, load_yaml

IMAGES = "images/{split}"
_LABELS = (".txt", ".text")
_NEAR = 0.01  # of the image's side: keypoints are drawn a little outside their boxes


def find(path: Path, *, empty: bool = False) -> dict[str, Source] | None:
    """Returns the YOLO splits at a path, or None if it does not look like YOLO. It reads the YAML file only.

    With ``empty``, a file with `names` and only empty splits is a UserError.
    """
    if path.is_file():
        return _sources(path, _load(path)) if path.suffix.lower() in (".yaml", ".yml") else None
    files = sorted(file for pattern in ("*.yaml", "*.yml") for file in path.glob(pattern) if file.is_file())
    files = [file for file in files if file.stem == "data"] or files
    candidates = [(file, _load(file)) for file in files if "names" in read_text(file)]
    found = [(file, document) for file, document in candidates if "names" in document and _splits(document)]
    if len(found) > 1:
        listed = ", ".join(str(file) for file, _ in found)
        raise UserError(f"{path}: several YAML files describe a data set; name the one that counts: {listed}")
    if empty and not found:
        found = [(file, document) for file, document in candidates if "names" in document and _empty(document)]
    return _sources(*found[0]) if found else None


def _load(file: Path) -> dict[Any, Any]:
    try:
        document = _parsed(read_text(file))
    except BrokenYamlError as error:
        where = f", line {error.line} column {error.column}" if error.line else ""
        raise UserError(f"{file}: is not valid YAML ({error}{where}); correct it") from None
    return document if isinstance(document, dict) else {}


@lru_cache(maxsize=1)  # it is wanted to find the splits, and for each of them, and thousands of names take a second
def _parsed(text: str) -> Any:
    return load_yaml(text, data_set=True)


def _splits(document: dict[Any, Any]) -> dict[str, Any]:
    return name_splits((key, value) for key, value in document.items() if isinstance(key, str) and value is not None)


def _empty(document: dict[Any, Any]) -> list[str]:
    """Returns the splits that the file names and says nothing of."""
    return [key for key, value in document.items() if isinstance(key, str) and value is None and split_word(key)]


def _sources(file: Path, document: dict[Any, Any]) -> dict[str, Source]:
    splits = _splits(document)
    if "names" not in document or not splits:
        empty = "".join(f"; `{key}` is empty" for key in _empty(document))
        problem = "does not describe a YOLO data set; it needs `names` and at least `train` or `val`"
        raise UserError(f"{file}: {problem}{empty}")
    home, path = file.parent, document.get("path")
    if not isinstance(path, str | int | None):
        raise UserError(f"{file}: `path` must be a folder; correct or remove it")
    root = _folder(file, document)
    root = root if os.path.isdir(root) else home
    sources = {}
    for split, value in splits.items():
        entries = value if isinstance(value, list) else [value]
        if not entries or not all(isinstance(entry, str) for entry in entries):
            raise UserError(f"{file}: `{split}` must be a folder, a file that lists images, or a list of those")
        images = tuple(_resolve(entry, (root, home)) for entry in entries)
        sources[split] = Source("yolo", root, split, annotations=file, images=images)
    return sources


def _folder(file: Path, document: dict[Any, Any]) -> Path:
    """Returns the folder that `path` names, there or not."""
    path = document.get("path")
    return Path(os.path.normpath(file.parent / str(path))) if path is not None else file.parent


def _resolve(entry: str, bases: tuple[Path, ...]) -> Path:
    """Returns an entry's path; where it exists nowhere, the path it should have had."""
    spellings = (entry, entry.removeprefix("../"))  # Roboflow's ../train/images lies beside its data.yaml
    paths = [Path(os.path.normpath(base / spelling)) for spelling in spellings for base in bases]
    inside = [path for path in paths if any(path.absolute().is_relative_to(base.absolute()) for base in bases)]
    return next(
        (path for path in (*inside, *paths) if os.path.exists(path)), paths[0]
    )  # not another data set's beside it


def read(source: Source, log: FaultLog) -> RawSplit:
    """Reads the split's records. Faulty ones go into ``log``; UserError when names or the splits' folders are wrong."""
    document = _load(source.annotations)
    raw = RawSplit(source, _categories(source.annotations, document), fractions=True)
    folder = _folder(source.annotations, document)
    if not os.path.isdir(folder) and source.split == next(iter(_splits(document))):  # said once
        problem = f"`path` names {folder}, which is no folder, so {source.annotations.parent} is taken"
        log.add(FaultKind.NO_PATH, source.annotations, "", problem)
    points, polygons = _keypoints(source.annotations, document), list[tuple[Path, str, list[float]]]()
    seen, bare, owners = set[Path](), set[Path](), dict[Path, Path]()
    entries = {
        entry: _label_file(entry / "image", source.root).parent for entry in source.images if os.path.isdir(entry)
    }
    folders = {labels for entry, labels in entries.items() if labels != entry}  # of labels apart from images
    for image, listing, item in _image_files(source, log):
        if image in seen:
            log.add(FaultKind.DUPLICATE_IMAGE, listing, item, f"{image} is listed twice; list each image once")
            continue
        seen.add(image)
        usual = _label_file(image, source.root)
        if os.path.isdir(listing):
            folders |= {usual.parent} - {image.parent}
        labels = usual if os.path.lexists(usual) else image.with_suffix(".txt")
        labelled = os.path.lexists(labels)  # if it is no file, reading it says so
        if labelled and labels in owners:
            problem = f"it holds the labels of both {owners[labels]} and {image}"
            log.add(FaultKind.SHARED_LABELS, labels, "", f"{problem}; remove one of the images, or rename it")
            continue
        raw.images.append(RawImage(len(raw.images) + 1, image, None, labels, ""))
        if labelled:
            owners[labels] = image
            _read_labels(raw, labels, points, polygons, log)
        else:
            problem = f"there is no {usual}, so the image counts as one without objects"
            log.add(FaultKind.NO_LABEL_FILE, image, "", problem)
            bare |= {usual, image.with_suffix(".txt")}
    _doubt_polygons(source.annotations, polygons, log)
    if raw.images and not owners:
        problem = (
            f"no image has a label file ({_label_file(raw.images[0].file, source.root)} and so on); put them there"
        )
        log.add(FaultKind.MISSING_ANNOTATION, source.annotations, f"split {source.split}", problem)
    _log_unread(folders, {_label_file(image, source.root) for image in seen}, bare, log)
    return raw


def _log_unread(folders: set[Path], expected: set[Path], bare: set[Path], log: FaultLog) -> None:
    """Logs the label files in folders and below that no image has, by their names or by their endings.

    Those that images should have are ``expected``; the ``bare`` are those, also beside the images, that are not there.
    """
    for place in sorted({file.parent for file in bare}):
        if os.path.lexists(place) and not os.path.isdir(place):
            problem = "is no folder of labels, or a link that leads nowhere; restore or remove it"
            log.add(FaultKind.BROKEN_FILE, place, "", problem)
    present = {file for folder in folders if os.path.isdir(folder) for file in walk_files(folder)} - expected
    texts = {file for file in present if file.suffix.lower() in _LABELS and file.name != "classes.txt"}
    beside = {place for place in {file.parent for file in bare} - folders if os.path.isdir(place)}
    there = {place / name for place in beside for name in list_names(place)} - expected
    misnamed = {file for file in present if file.with_suffix(".txt") in bare}
    wanted = expected | bare
    misnamed |= {f for f in texts | there if f.suffix.lower() in _LABELS and f.with_suffix(".txt") in wanted}
    for file in sorted(misnamed):
        log.add(FaultKind.MISNAMED_LABELS, file, "", f"is not read; rename it to {file.stem}.txt if it holds labels")
    orphans = texts - misnamed
    real = {os.path.realpath(file) for file in expected} if orphans else set()  # links give a folder several names
    for file in sorted(file for file in orphans if os.path.realpath(file) not in real):
        log.add(FaultKind.MISSING_IMAGE, file, "", "there is no image of this name; restore or remove it")


def _keypoints(file: Path, document: dict[Any, Any]) -> int | None:
    """Returns how many numbers of a line are those of its keypoints, None where the lines have none."""
    if (shape := document.get("kpt_shape")) is None:
        return None
    whole = isinstance(shape, list) and all(type(side) is int for side in shape)
    if not whole or len(shape) != 2 or not 1 <= shape[0] <= 10_000 or shape[1] not in (2, 3):
        raise UserError(f"{file}: `kpt_shape` must be [NUMBER OF POINTS, 2 or 3], such as [17, 3]; correct it")
    return int(shape[0] * shape[1])


def _doubt_polygons(file: Path, polygons: list[tuple[Path, str, list[float]]], log: FaultLog) -> None:
    """Logs polygons that are more likely boxes with keypoints: all as long, and the first four numbers such a box."""
    lengths = {len(values) for _, _, values in polygons}
    like = [(labels, item) for labels, item, values in polygons if _like_keypoints(values)]
    if len(lengths) == 1 and len(like) >= 0.9 * len(polygons):
        problem = f"may be a box with keypoints; then say so by `kpt_shape` in {file}, and only the box is read"
        faults = (Fault(FaultKind.MAYBE_KEYPOINTS, labels, item, problem) for labels, item in like)
        log.add_many(FaultKind.MAYBE_KEYPOINTS, len(like), faults)


def _like_keypoints(values: list[float]) -> bool:
    """Says whether numbers may be a box cx cy w h in the image and points in it or at 0 0, with visibility or not."""
    x1, y1, x2, y2 = _corners(values[:4])
    if min(x1, y1) < -_NEAR or max(x2, y2) > 1 + _NEAR or values[2] <= 0 or values[3] <= 0:
        return False

    def inside(xs: list[float], ys: list[float]) -> bool:
        near = (x1 - _NEAR <= x <= x2 + _NEAR and y1 - _NEAR <= y <= y2 + _NEAR for x, y in zip(xs, ys, strict=True))
        return all(fits or (x, y) == (0, 0) for fits, x, y in zip(near, xs, ys, strict=True))

    rest = values[4:]
    visible = len(rest) % 3 == 0 and set(rest[2::3]) <= {0, 1, 2}
    return inside(rest[0::2], rest[1::2]) or (visible and inside(rest[0::3], rest[1::3]))


def _categories(file: Path, document: dict[Any, Any]) -> tuple[Category, ...]:
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
            raise UserError(f"{file}: `names` entry {number} is {name!r:.60}, not text; put the name in quotes")
        cleaned.append(clean_name(str(name), file, f"`names` entry {number}"))
    if (twice := first_repeated(cleaned)) is not None:
        raise UserError(f"{file}: there are two classes named {twice!r}; merge or rename them")
    if (count := document.get("nc")) is not None and (type(count) is not int or count != len(cleaned)):
        raise UserError(f"{file}: `nc` is {count!r:.60}, but `names` lists {len(cleaned)} classes; correct one of them")
    return tuple(Category(number, name) for number, name in enumerate(cleaned))


def _image_files(source: Source, log: FaultLog) -> Iterator[tuple[Path, Path, str]]:
    """Yields the split's images, each with the folder or list it comes from and the item there."""
    for entry in source.images:
        if os.path.isdir(entry):
            images, others = images_among(walk_files(entry))
            for file in others:
                log.add(FaultKind.LEFT_OUT, file, "", "is no image by its name; rename it if it is one")
            yield from ((image, entry, "") for image in images)
        elif os.path.isfile(entry) and entry.suffix.lower() == ".txt":
            for number, line in enumerate(read_text(entry).splitlines(), start=1):
                if not (name := line.strip()):
                    continue
                paths = [Path(os.path.normpath(base / name)) for base in (entry.parent, source.root)]
                image = next((path for path in paths if os.path.isfile(path)), paths[0])
                if os.path.isfile(image):
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


def _read_labels(
    raw: RawSplit, file: Path, points: int | None, polygons: list[tuple[Path, str, list[float]]], log: FaultLog
) -> None:
    """Reads the last image's labels; lines are boxes, or have so many ``points`` numbers more, or are ``polygons``."""
    try:
        lines = read_text(file, of_one_image=True).splitlines()
    except UserError as error:
        log.add_error(FaultKind.BROKEN_FILE, error)
        return
    for position, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        item = f"line {position}"
        read = [value for word in line.split() if (value := read_number(word)) is not None]
        if len(read) < len(line.split()):
            log.add(FaultKind.BROKEN_RECORD, file, item, f"{line.strip()[:60]!r} is not a line of numbers; correct it")
            continue
        first, values = read[0], read[1:]
        if points is not None and len(values) not in (4, 4 + points):
            problem = (
                f"has {len(read)} numbers; a box has 5 (class cx cy w h), with keypoints by `kpt_shape` {5 + points}"
            )
            log.add(FaultKind.BROKEN_RECORD, file, item, f"{problem}; correct it, or {raw.source.annotations}")
        elif len(values) < 4 or (points is None and len(values) > 4 and (len(values) < 6 or len(values) % 2)):
            problem = f"has {len(read)} numbers; a box has 5 (class cx cy w h) and a polygon an odd number from 7"
            way_out = "a sixth number is a prediction's score, remove it" if len(values) == 5 else "correct it"
            log.add(FaultKind.BROKEN_RECORD, file, item, f"{problem}; {way_out}")
        elif not (first.is_integer() and 0 <= first < len(raw.categories)):
            problem = (
                f"class {first:g} is not one of 0..{len(raw.categories) - 1}, which {raw.source.annotations} names"
            )
            log.add(FaultKind.UNKNOWN_CATEGORY, file, item, f"{problem}; correct it, or add its name there")
        else:
            if len(values) > 4 and points is not None:
                log.add(FaultKind.KEYPOINTS, file, item, "has keypoints, of which nothing is used")
                values = values[:4]
            elif len(values) > 4:
                log.add(FaultKind.POLYGON, file, item, "is a polygon, of which the bounding box is used")
                polygons.append((file, item, values))
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
    folders = {split: IMAGES.format(split=split) for split in datasets}
    file = out / "data.yaml"
    file.write_text(_yaml(folders | {"names": dict(enumerate(names))}), encoding="utf-8")
    with suppress(UserError):
        if _categories(file, _load(file)) == _categories(file, {"names": list(names)}):
            return
    # A name such as `nO`, a truth value to some readers, or so many that the numbers before them are too many values
    file.write_text(_yaml(folders | {"names": list(names)}, default_style='"'), encoding="utf-8")
    try:
        _load(file)
    except UserError:
        raise UserError(
            f"{len(names)} classes of these names are more than YOLO's YAML file can hold; choose another format"
        ) from None


def _yaml(document: dict[str, Any], **style: Any) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, **style)


def _lines(record: ImageRecord) -> str:
    """Returns a line for each object but crowd, which has no place in YOLO."""
    height, width = record.size
    rows = [
        (label, (x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
        for (x1, y1, x2, y2), label, crowd, _ in record.objects()
        if not crowd
    ]
    return "".join(" ".join(map(str, row)) + "\n" for row in rows)
