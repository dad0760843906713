"""Reads and writes PASCAL VOC: one XML file an image.

Layouts found in a folder DIR:

- DIR/Annotations/*.xml, images in DIR/JPEGImages/ (or DIR/images/), splits in DIR/ImageSets/Main/train.txt,
  val.txt, ...; without ImageSets, all of it is one split called train;
- DIR/train/*.xml, DIR/valid/*.xml, ... beside their images (Roboflow), or with Annotations/ inside each;
- DIR/*.xml beside the images: one split called train.

Rules:

- The image is the one that <filename> names, else the one with the XML file's own stem.
- <size> is checked against the image; missing or 0 x 0, it is taken from the image.
- Coordinates are edges in pixels counted from 0, as labelImg and most tools write them. With ``one_based``, they
  are inclusive pixel indices counted from 1, as in the original PASCAL VOC: xmin and ymin lose 1.
- Objects marked <difficult> become crowd: never a target, and detections of them count as neither right nor
  wrong, which is what the VOC evaluation does with them.
- Classes are those of DIR/classes.txt (or labels.txt), one a line, in that order. Without it, they are the names
  used in split train (in all splits if there is no train), sorted alphabetically; a name that only another split
  uses is an error, since it is mostly a misspelling. Class ids are 1..K.

XML is parsed by defusedxml, which refuses entity declarations.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import defusedxml.ElementTree

from mimicdet.data.dataset import Category, DetectionDataset, ImageRecord, did_you_mean
from mimicdet.data.decode import IMAGE_SUFFIXES, find_image
from mimicdet.data.faults import FaultKind, FaultLog
from mimicdet.data.raw import RawImage, RawSplit, Source, SplitSources, clean_name, first_repeated, read_text
from mimicdet.data.split_names import name_splits, split_word
from mimicdet.errors import UserError

IMAGES = "JPEGImages"
CLASS_FILES = ("classes.txt", "labels.txt")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def find(path: Path) -> dict[str, Source] | None:
    """Returns the VOC splits at a folder, or None if it does not look like VOC. It looks at names only."""
    if not path.is_dir():
        return None
    if inner := _annotation_folder(path):
        images = _image_folders(path, inner)
        lists = sorted((path / "ImageSets" / "Main").glob("*.txt"))
        named: dict[str, Path | None] = {**name_splits((file.stem, file) for file in lists)}
        if not named:
            named = {"train": lists[0] if lists else None} if len(lists) < 2 else {file.stem: file for file in lists}
        return {name: Source("voc", path, name, inner, images, file) for name, file in named.items()}
    folders = (folder for folder in sorted(path.iterdir()) if folder.is_dir() and split_word(folder.name))
    found = [(f.name, (f, inner)) for f in folders if (inner := _annotation_folder(f) or (f if _has_xml(f) else None))]
    beside = name_splits(found) if found else {"train": (path, path)} if _has_xml(path) else {}
    return {n: Source("voc", path, n, inner, _image_folders(f, inner)) for n, (f, inner) in beside.items()} or None


def _annotation_folder(path: Path) -> Path | None:
    return next((path / n for n in ("Annotations", "annotations") if _has_xml(path / n)), None)


def _image_folders(path: Path, annotations: Path) -> tuple[Path, ...]:
    folders = dict.fromkeys((path / "JPEGImages", path / "Images", path / "images", annotations, path))
    return tuple(folder for folder in folders if folder.is_dir())


def _has_xml(folder: Path) -> bool:
    return folder.is_dir() and next(folder.glob("*.xml"), None) is not None


def read(sources: SplitSources, split: str, log: FaultLog, *, one_based: bool) -> RawSplit:
    """Reads the split's records. Faulty ones go into ``log``; UserError when no class is known."""
    source = sources.splits[split]
    categories, origin = _categories(sources)
    raw = RawSplit(source, categories)
    by_stem = _images_by_stem(source.images)
    owners: dict[Path, Path] = {}
    stems = set()
    for file in _xml_files(source, log):
        stems.add(file.stem)
        try:
            root = _parse(file)
        except UserError as error:
            log.add_error(FaultKind.BROKEN_FILE, error)
            continue
        name = (root.findtext("filename") or "").strip()
        image = (find_image(name, source.images) if name else None) or by_stem.get(file.stem)
        if image is None:
            problem = f"its image ({name or file.stem}) is in none of {', '.join(map(str, source.images))}"
            way_out = "put it there, correct <filename>, or remove the file"
            log.add(FaultKind.MISSING_IMAGE, file, "", f"{problem}; {way_out}")
            continue
        if image in owners:
            problem = f"{owners[image]} describes the same image {image.name}"
            log.add(FaultKind.DUPLICATE_IMAGE, file, "", f"{problem}; correct <filename>, or remove one of them")
            continue
        owners[image] = file
        raw.images.append(RawImage(len(raw.images) + 1, image, _recorded_size(root), file, ""))
        for number, element in enumerate(root.findall("object"), start=1):
            _read_object(raw, element, f"object {number} ({_object_name(element)})", origin, one_based, log)
    if source.listing is None:
        for stem, image in by_stem.items():
            if stem not in stems and image not in owners:
                log.add(FaultKind.NO_ANNOTATION, image, "", f"there is no {stem}.xml, so the image is left out")
    return raw


def _read_object(raw: RawSplit, element: Any, item: str, origin: str, one_based: bool, log: FaultLog) -> None:
    """Appends an object of the last image, if it is whole; ``origin`` is where the classes come from."""
    file, name = raw.images[-1].annotations, _object_name(element)
    corners = [_number(element, f"bndbox/{tag}") for tag in _CORNERS]
    difficult = (element.findtext("difficult") or "0").strip()
    if not name or None in corners or difficult not in ("0", "1"):
        problem = "needs a <name>, a <bndbox> of numbers xmin, ymin, xmax, ymax, and <difficult> 0, 1 or none"
        log.add(FaultKind.BROKEN_RECORD, file, item, f"{problem}; correct it")
    elif name not in raw.class_index:
        problem = f"{name!r} is not among the classes of {origin}{did_you_mean(name, list(raw.class_index))}"
        way_out = f"correct it, or list all classes in {raw.source.root / CLASS_FILES[0]}"
        log.add(FaultKind.UNKNOWN_CATEGORY, file, item, f"{problem}; {way_out}")
    else:
        x1, y1, x2, y2 = (corner for corner in corners if corner is not None)
        if difficult == "1":
            log.add(FaultKind.DIFFICULT, file, item, "is marked difficult, so it is neither target nor mistake")
        box, label = (x1 - one_based, y1 - one_based, x2, y2), raw.class_index[name]
        raw.add(len(raw.images) - 1, box, label, item, crowd=difficult == "1")


def _categories(sources: SplitSources) -> tuple[tuple[Category, ...], str]:
    """Returns the classes by the rules at the top, and where they come from."""
    for file in (sources.root / name for name in CLASS_FILES):
        if file.is_file():
            lines = [line.strip() for line in read_text(file).splitlines()]
            names = [clean_name(line, file, f"line {n}") for n, line in enumerate(lines, start=1) if line]
            if (twice := first_repeated(names)) is not None:
                raise UserError(f"{file}: class {twice!r} is listed twice; list each once")
            if not names:
                raise UserError(f"{file}: lists no classes; write one a line, or remove the file")
            return tuple(Category(number, name) for number, name in enumerate(names, start=1)), str(file)
    words = {split: (split_word(split) or ("",))[0] for split in sources.splits}
    wanted = next((w for w in (("train", "training"), ("trainval",)) if set(w) & set(words.values())), None)
    chosen = [split for split, word in words.items() if wanted is None or word in wanted]
    used, parsed = set[str](), 0
    for file in (file for split in chosen for file in _xml_files(sources.splits[split], FaultLog())):
        try:
            used.update(_object_name(element) for element in _parse(file).findall("object"))
            parsed += 1
        except UserError:
            continue  # reported when the split itself is read
    used.discard("")
    if parsed and not used:  # no file at all, or only broken ones, are faults of the split itself
        problem = f"no object has a name, so the classes are unknown; list them in {sources.root / CLASS_FILES[0]}"
        raise UserError(f"{sources.splits[chosen[0]].annotations}: {problem}")
    categories = tuple(Category(number, name) for number, name in enumerate(sorted(used), start=1))
    return categories, "split " + ", ".join(chosen)


def _xml_files(source: Source, log: FaultLog) -> Iterator[Path]:
    """Yields the split's XML files that exist, in the order of its list, else sorted."""
    if source.listing is None:
        yield from sorted(source.annotations.glob("*.xml"))
        return
    seen: set[str] = set()
    for number, line in enumerate(read_text(source.listing).splitlines(), start=1):
        if not (entry := line.strip()):
            continue
        # Lists of one class end in -1, 0 or 1; some tools list the image's file name.
        spellings = (entry, os.path.splitext(entry)[0], entry.split()[0])
        stem = next((s for s in spellings if (source.annotations / f"{s}.xml").is_file()), None)
        if stem is None:
            problem = f"there is no {source.annotations / (entry + '.xml')}; add it, or remove the line"
            log.add(FaultKind.MISSING_ANNOTATION, source.listing, f"line {number}", problem)
        elif stem in seen:
            problem = f"{stem} is listed twice; list each image once"
            log.add(FaultKind.DUPLICATE_IMAGE, source.listing, f"line {number}", problem)
        else:
            seen.add(stem)
            yield source.annotations / f"{stem}.xml"


def _parse(file: Path) -> Any:
    try:
        root = defusedxml.ElementTree.parse(file).getroot()
        if root is not None and root.tag == "annotation":
            return root
        problem = "is not a PASCAL VOC annotation (its root is not <annotation>); remove it from here"
    except defusedxml.DefusedXmlException:
        problem = "declares XML entities, which can be used for attacks and are refused; remove the declarations"
    except ElementTree.ParseError as error:
        problem = f"is not valid XML ({error}); correct it, or restore a complete copy"
    except OSError as error:
        problem = f"cannot be read ({error.strerror}); check its permissions"
    except (LookupError, ValueError) as error:  # unknown or wrong encodings
        problem = f"is not readable XML ({error}); save it as UTF-8"
    raise UserError(f"{file}: {problem}")


def _recorded_size(root: Any) -> tuple[int, int] | None:
    sides = [_number(root, f"size/{side}") for side in ("height", "width")]
    height, width = (int(side) if side and side > 0 and side == side // 1 else 0 for side in sides)
    return (height, width) if height and width else None


def _object_name(element: Any) -> str:
    return " ".join((element.findtext("name") or "").split())


def _number(element: Any, path: str) -> float | None:
    try:
        return float(element.findtext(path) or "")
    except ValueError:
        return None


def _images_by_stem(folders: tuple[Path, ...]) -> dict[str, Path]:
    """Finds images right in the folders, by stem; the first folder wins."""
    found: dict[str, Path] = {}
    for folder in folders:
        for name in sorted(os.listdir(folder)):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in IMAGE_SUFFIXES:
                found.setdefault(stem, folder / name)
    return found


def write(out: Path, datasets: Mapping[str, DetectionDataset]) -> None:
    """Writes ``out/Annotations/*.xml``, ``out/ImageSets/Main/train.txt`` and so on, and ``out/classes.txt``."""
    annotations, lists = out / "Annotations", out / "ImageSets" / "Main"
    annotations.mkdir()
    lists.mkdir(parents=True)
    for split, dataset in datasets.items():
        for record in dataset.images:
            _tree(record, dataset.class_names).write(annotations / f"{record.file.stem}.xml", encoding="utf-8")
        stems = "".join(f"{record.file.stem}\n" for record in dataset.images)
        (lists / f"{split}.txt").write_text(stems, encoding="utf-8")
    names = next(iter(datasets.values())).class_names
    (out / "classes.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def _tree(record: ImageRecord, names: tuple[str, ...]) -> ElementTree.ElementTree:
    root = ElementTree.Element("annotation")

    def put(parent: ElementTree.Element, **texts: object) -> None:
        for tag, text in texts.items():
            ElementTree.SubElement(parent, tag).text = str(text)

    put(root, folder=IMAGES, filename=record.file)
    put(ElementTree.SubElement(root, "size"), width=record.width, height=record.height, depth=3)
    for box, label, crowd, _ in record.objects():
        element = ElementTree.SubElement(root, "object")
        put(element, name=names[label], difficult=int(crowd))
        corners = [int(value) if value.is_integer() else value for value in box]  # many readers know whole numbers only
        put(ElementTree.SubElement(element, "bndbox"), **dict(zip(_CORNERS, corners, strict=True)))
    ElementTree.indent(root)
    return ElementTree.ElementTree(root)
