"""Reads and writes PASCAL VOC: one XML file an image.

Layouts found in a folder DIR:

- DIR/Annotations/*.xml, images in DIR/JPEGImages/ (or DIR/images/), splits in DIR/ImageSets/Main/train.txt,
  val.txt, ...; without ImageSets, all of it is one split called train;
- DIR/train/*.xml, DIR/valid/*.xml, ... beside their images (Roboflow), or with Annotations/ inside each;
- DIR/*.xml beside the images: one split called train.

Rules:

- The image is the one with the XML file's own stem; where there are several (a.jpg, a.png), the one of them that
  <filename> names, and where there is none, the image that <filename> names. Where the two differ, it is said.
- In folders below Annotations and the images' folders, also behind symbolic links, a file belongs to the image in the
  folder of the same name, or else in the images' folder itself.
- <size> is checked against the image; missing or 0 x 0, it is taken from the image.
- What an object or image can have only one of, such as <xmin>, may not stand there twice.
- Coordinates are edges in pixels counted from 0, as labelImg and most tools write them. With ``one_based``, they
  are inclusive pixel indices counted from 1, as in the original PASCAL VOC: xmin and ymin lose 1.
- Objects marked <difficult> become crowd: never a target, and detections of them count as neither right nor
  wrong, which is what the VOC evaluation does with them.
- Other elements that say something, such as <part>, <polygon> or <truncated>1, are counted and not used.
- Classes are those of DIR/classes.txt (or labels.txt), one a line, in that order. Without it, they are the names
  used in split train (in all splits if there is no train), sorted alphabetically; a name that only another split
  uses is an error, since it is mostly a misspelling. Class ids are 1..K.

XML is parsed by defusedxml, which refuses entity declarations.
"""

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import defusedxml.ElementTree

from mimicdet.data.dataset import Category, DetectionDataset, ImageRecord, did_you_mean
from mimicdet.data.decode import find_image, images_among
from mimicdet.data.faults import Fault, FaultKind, FaultLog
from mimicdet.data.folders import walk_files
from mimicdet.data.raw import (
    RawImage,
    RawSplit,
    Source,
    SplitSources,
    clean_name,
    first_repeated,
    is_printable,
    read_number,
    read_text,
    require_one_image,
)
from mimicdet.data.split_names import name_splits, split_word
from mimicdet.errors import UserError, one_line

IMAGES = "JPEGImages"
CLASS_FILES = ("classes.txt", "labels.txt")
_IMAGE_FOLDERS = ("jpegimages", "images")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_USED_OF_IMAGE = ("filename", "size", "object", "folder", "path", "source", "owner")  # the last four: where it is from
_USED_OF_OBJECT = ("name", "bndbox", "difficult")


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
    return next((path / n for n in ("Annotations", "annotations") if _has_any_xml(path / n)), None)


def _image_folders(path: Path, annotations: Path) -> tuple[Path, ...]:
    folders = dict.fromkeys((path / "JPEGImages", path / "Images", path / "images", annotations, path))
    return tuple(folder for folder in folders if folder.is_dir())


def _has_any_xml(folder: Path) -> bool:
    return folder.is_dir() and (_has_xml(folder) or any(file.suffix.lower() == ".xml" for file in walk_files(folder)))


def _has_xml(folder: Path) -> bool:
    return folder.is_dir() and next(folder.glob("*.xml"), None) is not None


def read(sources: SplitSources, split: str, log: FaultLog, *, one_based: bool) -> RawSplit:
    """Reads the split's records. Faulty ones go into ``log``; UserError when no class is known."""
    source = sources.splits[split]
    categories, origin = sources.once("classes", lambda: _categories(sources))
    raw = RawSplit(source, categories)
    by_key, others = sources.once((source.annotations, source.images), lambda: _images_by_key(source))
    owners: dict[Path, Path] = {}
    unread: set[str] = set()
    for file in _xml_files(source, log):
        key = _key(file, source.annotations)
        try:
            root = _parse(file)
        except UserError as error:
            unread.add(key)
            log.add_error(FaultKind.BROKEN_FILE, error)
            continue
        try:
            name, size, objects = _field(root, "filename").strip(), _recorded_size(root), _objects(root)
            image = _image_of(file, name, by_key, source, log)
        except ValueError as error:
            unread.add(key)
            log.add(FaultKind.BROKEN_RECORD, file, "", f"{error}; correct it")
            continue
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
        raw.images.append(RawImage(len(raw.images) + 1, image, size, file, ""))
        raw.unused.update(_unused(root, _USED_OF_IMAGE))
        for number, element in enumerate(objects, start=1):
            _read_object(raw, element, f"object {number} ({_object_name(element)})", origin, one_based, log)
    if source.listing is None:
        for key, image in ((key, image) for key, images in by_key.items() for image in images):
            if key not in unread and image not in owners:
                owner = next((owners[other] for other in by_key[key] if other in owners), None)
                problem = f"there is no {Path(key).name}.xml for it, so the image is left out"
                if owner is not None:
                    problem = f"{owner.name} is about another image of this name, by its <filename>, so it is left out"
                log.add(FaultKind.NO_ANNOTATION, image, "", problem)
        for file in others:
            log.add(FaultKind.LEFT_OUT, file, "", "is no image by its name; rename it if it is one")
    return raw


def _image_of(file: Path, name: str, by_key: dict[str, list[Path]], source: Source, log: FaultLog) -> Path | None:
    """Returns the image of an XML file whose <filename> is ``name``, by the rules at the top, None without any.

    Where name and file differ, it is logged. ValueError: several images have the stem, and none of them is named.
    """
    own = by_key.get(_key(file, source.annotations)) or by_key.get(file.stem) or []
    base = name.replace("\\", "/").rpartition("/")[2]
    named = [image for image in own if image.name == base]
    beside = [image for image in own if image.parent == own[0].parent]
    if len(named) != 1 and len(beside) > 1:
        raise ValueError(f"{' and '.join(image.name for image in beside)} share it; keep one, or name it in <filename>")
    image = named[0] if len(named) == 1 else own[0] if own else find_image(name, source.images) if name else None
    if image is not None and base and image.stem not in (base, os.path.splitext(base)[0]):
        problem = f"its <filename> is {name!r}, but it is read for {image}, which has its own name"
        log.add(FaultKind.STALE_NAME, file, "", problem)
    elif image is not None and not own:
        log.add(FaultKind.STALE_NAME, file, "", f"is read for {image}, which <filename> names; none has its own name")
    return image


def _objects(root: Any) -> list[Any]:
    """Returns the objects; ValueError where some are deeper or spelt otherwise, and would be lost."""
    objects = root.findall("object")
    every = sum(str(element.tag).rpartition("}")[2].lower() == "object" for element in root.iter())
    if every > len(objects):
        raise ValueError(f"{every - len(objects)} objects are not right inside <annotation> as <object>")
    return list(objects)


def _read_object(raw: RawSplit, element: Any, item: str, origin: str, one_based: bool, log: FaultLog) -> None:
    """Appends an object of the last image, if it is whole; ``origin`` is where the classes come from."""
    file, name = raw.images[-1].annotations, _object_name(element)
    try:
        given = {tag: _field(element, f"bndbox/{tag}").strip() for tag in _CORNERS}
        corners = [read_number(text) for text in given.values()]
        difficult = (_field(element, "difficult") or "0").strip()
        _field(element, "name")
    except ValueError as error:
        log.add(FaultKind.BROKEN_RECORD, file, item, f"{error}; correct it")
        return
    if not is_printable(name) or None in corners or difficult not in ("0", "1"):
        problem = "needs a <name>, a <bndbox> of numbers xmin, ymin, xmax, ymax, and <difficult> 0, 1 or none"
        faulty = [
            f"{tag} {text!r:.40}" for (tag, text), corner in zip(given.items(), corners, strict=True) if corner is None
        ]
        faulty += [f"difficult {difficult!r:.40}"] * (difficult not in ("0", "1")) + ["no name"] * (not name)
        faulty += [f"a <name> that is not printable: {name!r:.60}"] * (bool(name) and not is_printable(name))
        log.add(FaultKind.BROKEN_RECORD, file, item, f"{problem}, and has {', '.join(faulty)}; correct it")
    elif name not in raw.class_index:
        near = did_you_mean(name, list(raw.class_index)) if log.keeps(FaultKind.UNKNOWN_CATEGORY) else ""
        problem = f"{name!r} is not among the classes of {origin}{near}"
        way_out = f"correct it, or list all classes in {raw.source.root / CLASS_FILES[0]}"
        log.add(FaultKind.UNKNOWN_CATEGORY, file, item, f"{problem}; {way_out}")
    else:
        x1, y1, x2, y2 = (corner for corner in corners if corner is not None)
        if difficult == "1":
            log.add(FaultKind.DIFFICULT, file, item, "is marked difficult, so it is neither target nor mistake")
        box, label = (x1 - one_based, y1 - one_based, x2, y2), raw.class_index[name]
        raw.add(len(raw.images) - 1, box, label, item, crowd=difficult == "1")
        raw.unused.update(_unused(element, _USED_OF_OBJECT))
        raw.unused.update(f"bndbox/{tag}" for tag in _unused(element.find("bndbox"), _CORNERS))


def _unused(parent: Any, used: Collection[str]) -> set[str]:
    """Returns the tags of the elements right inside another that say something, but for those that are used."""
    tags = ((str(element.tag).rpartition("}")[2], element) for element in parent)
    return {tag for tag, element in tags if tag not in used and not all(map(_says_nothing, element.itertext()))}


def _says_nothing(text: str) -> bool:
    return text.strip().lower() in ("", "0", "false", "unspecified")


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
            used.update(filter(is_printable, map(_object_name, _parse(file).findall("object"))))
            parsed += 1
        except UserError:
            continue  # reported when the split itself is read
    if parsed and not used:  # no file at all, or only broken ones, are faults of the split itself
        problem = f"no object has a name, so the classes are unknown; list them in {sources.root / CLASS_FILES[0]}"
        raise UserError(f"{sources.splits[chosen[0]].annotations}: {problem}")
    categories = tuple(Category(number, name) for number, name in enumerate(sorted(used), start=1))
    return categories, "split " + ", ".join(chosen)


def _xml_files(source: Source, log: FaultLog) -> Iterator[Path]:
    """Yields the split's XML files that exist, in the order of its list, else sorted."""
    if source.listing is None:
        yield from (file for file in walk_files(source.annotations) if file.suffix.lower() == ".xml")
        return
    seen: set[str] = set()
    for number, line in enumerate(read_text(source.listing).splitlines(), start=1):
        if not (entry := line.strip()):
            continue
        # Lists of one class end in -1, 0 or 1; some tools list the image's file name.
        spellings = (entry, os.path.splitext(entry)[0], entry.split()[0])
        inside = [s for s in spellings if not os.path.isabs(s) and os.pardir not in Path(s).parts]
        stem = next((s for s in inside if os.path.isfile(source.annotations / f"{s}.xml")), None)
        if stem is None:
            problem = f"there is no {source.annotations / (entry + '.xml')}; add it, or remove the line"
            log.add(FaultKind.MISSING_ANNOTATION, source.listing, f"line {number}", problem)
        elif stem in seen:
            problem = f"{stem} is listed twice; list each image once"
            log.add(FaultKind.DUPLICATE_IMAGE, source.listing, f"line {number}", problem)
        else:
            seen.add(stem)
            yield source.annotations / f"{stem}.xml"


def log_unlisted(sources: SplitSources, log: FaultLog) -> None:
    """Logs how many annotation files, and images without one, are in no list of ImageSets, where there are lists."""
    source = next(iter(sources.splits.values()))
    if source.listing is None:
        return
    listed = {file for one in sources.splits.values() for file in _xml_files(one, FaultLog())}
    files = [file for file in walk_files(source.annotations) if file.suffix.lower() == ".xml"]
    described = {_key(file, source.annotations) for file in files}
    bare = [image for key, images in _images_by_key(source)[0].items() if key not in described for image in images]
    for what, left in (("annotation files", [f for f in files if f not in listed]), ("images without one", bare)):
        if left:
            problem = f"{len(left)} {what} are in no list of a split, such as "
            problem += ", ".join(one_line(file.name) for file in left[:3])
            note = Fault(FaultKind.UNLISTED, source.listing.parent, "", problem)
            log.add_many(FaultKind.UNLISTED, len(left), [note])


def _parse(file: Path) -> Any:
    if not os.path.isfile(file):  # a pipe without a writer would be waited for
        raise UserError(f"{file}: is no file of text, or a link that leads nowhere; restore or remove it")
    try:
        require_one_image(file)
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
    """Returns the recorded height and width, None where one is missing or 0; ValueError for what is no size."""
    texts = [_field(root, f"size/{side}").strip() for side in ("height", "width")]
    sides = [read_number(text or "0") for text in texts]
    if any(side is None or not 0 <= side < 1e9 or side != side // 1 for side in sides):
        raise ValueError(f"width {texts[1][:40]!r} and height {texts[0][:40]!r} must be positive whole numbers")
    height, width = (int(side) for side in sides if side is not None)
    return (height, width) if height and width else None


def _object_name(element: Any) -> str:
    return " ".join((element.findtext("name") or "").split())


def _field(element: Any, path: str) -> str:
    """Returns the text at a path, "" where there is none; ValueError where it stands twice, or holds other elements."""
    for tag in path.split("/"):
        found = element.findall(tag)
        if len(found) > 1:
            raise ValueError(f"has {len(found)} times <{tag}>, which can stand there once")
        if not found:
            return ""
        element = found[0]
    if len(element):
        raise ValueError(f"<{tag}> holds other elements, not a value alone")
    return element.text or ""


def _key(file: Path, folder: Path) -> str:
    """Returns a file's path in a folder without its suffix, by which images and annotations find each other."""
    return os.path.splitext(file.relative_to(folder).as_posix())[0]


def _images_by_key(source: Source) -> tuple[dict[str, list[Path]], list[Path]]:
    """Finds the images by key, those of the first folder first, and files that may be images but are not called so."""
    found: dict[str, list[Path]] = {}
    left_out: dict[Path, None] = {}
    for folder in source.images:
        deep = folder == source.annotations or folder.name.lower() in _IMAGE_FOLDERS
        files = walk_files(folder) if deep else sorted(file for file in folder.iterdir() if not file.is_dir())
        images, others = images_among(files)
        left_out |= dict.fromkeys(others if deep else ())
        for image in images:
            same = found.setdefault(_key(image, folder), [])
            same += [image] if image not in same else []
    return found, list(left_out)


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
