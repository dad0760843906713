"""VOC files with faults, and what they mean by a literal reading of the rules in docs/data.md."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from xml.etree import ElementTree

from mimicdet import load_dataset
from tests.faults.boxes import (
    FILES,
    HEIGHT,
    NAMES,
    WIDTH,
    Box,
    RefusedError,
    UnclearError,
    compare,
    kept,
    number,
    read,
    teaches,
    write_images,
)
from tests.faults.judge import Mutant
from tests.faults.mutate import mutate_bytes, mutate_token

TOKENS = (
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1_0",
    "١٢",
    "१०",
    "0x10",
    "1,5",
    "-3",
    "2.5",
    "+7",
    "007",
    "1e1",
    "",
    " 9 ",
    "--1",
    "9" * 5000,
    "x" * 5000,
    "&#27;[2J",
    "&#10;",
    "&amp;",
    "&lol;",
    "/etc/passwd",
    "../../a.png",
    "b.png",
    "a.png",
    "猫",
    "&#x202e;gnp",
    "true",
    "<b/>",
    "<!-- -->",
    "<![CDATA[5]]>",
    "\x0b",
    "object",
    "cat",
    "dog",
)
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def xml(rng: random.Random, file: str) -> str:
    """A good VOC file of some objects."""
    objects = ""
    for _ in range(rng.randrange(2, 5)):
        x, y = rng.randrange(0, 25), rng.randrange(0, 15)
        corners = (x, y, x + rng.randrange(3, 15), y + rng.randrange(3, 15))
        inner = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(CORNERS, corners, strict=True))
        name, difficult = rng.choice(NAMES), int(rng.random() < 0.1)
        objects += (
            f"<object>\n<name>{name}</name>\n<difficult>{difficult}</difficult>\n<bndbox>{inner}</bndbox></object>\n"
        )
    size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
    return f"<annotation>\n<folder>x</folder><filename>{file}</filename>\n{size}\n{objects}</annotation>\n"


def make(rng: random.Random, folder: Path) -> Mutant:
    """Writes a mutant to a folder: three XML files, of which one is changed."""
    write_images(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    contents = {file: xml(rng, file).encode() for file in FILES}
    file = rng.choice(FILES)
    kind, contents[file] = _mutated(contents[file], rng)
    listed = rng.random() < 0.5
    if listed:
        (folder / "classes.txt").write_text("\n".join(NAMES) + "\n")
    for name, content in contents.items():
        (folder / "Annotations" / name.replace(".png", ".xml")).write_bytes(content)
    expected: list[Box] = []
    refuse: bool | None = False
    try:
        unclear = False
        for name, content in contents.items():
            boxes, doubtful = literal_boxes(content, name, folder, known=NAMES if listed else None)
            expected += boxes
            unclear |= doubtful
        refuse = False if teaches(expected) and not unclear else None
    except RefusedError:
        refuse = True
    except UnclearError:
        refuse, expected = None, []

    def right(value: list[Box]) -> str | None:
        return compare(expected, value) if expected else None

    command = ("check", str(folder), "--max_faulty_boxes", "1")
    run = lambda: read(load_dataset(folder, "train", max_faulty_boxes=1.0))  # noqa: E731
    return Mutant(kind, run, right, refuse, command, (folder.name,))


def _mutated(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    how = rng.random()
    if how < 0.25:
        return mutate_bytes(content, rng)
    text = content.decode()
    if how < 0.75:
        kind, text = mutate_token(text, rng, TOKENS)
    elif how < 0.85:  # an element is lost, doubled, or moved
        elements = list(re.finditer(r"<(\w+)>[^<]*</\1>|<bndbox>.*?</bndbox>|<object>.*?</object>", text, re.DOTALL))
        found = rng.choice(elements)
        kind = rng.choice(("element lost", "element doubled"))
        text = text[: found.start()] + found[0] * (2 if kind.endswith("doubled") else 0) + text[found.end() :]
    elif how < 0.9:
        kind = "entities"
        head = '<?xml version="1.0"?><!DOCTYPE annotation [<!ENTITY lol "lol"><!ENTITY lot "&lol;&lol;&lol;&lol;">]>'
        text = head + text.replace("<folder>x", "<folder>&lot;")
    elif how < 0.95:
        kind, depth = "nested deeply", rng.choice((100, 5000, 100_000))
        text = text.replace("<folder>x</folder>", "<a>" * depth + "</a>" * depth)
    else:
        kind = "other root"
        text = text.replace("annotation>", rng.choice(("annotations>", "Annotation>", "x>")))
    return kind, text.encode("utf-8", "surrogatepass")


def literal_boxes(content: bytes, image: str, folder: Path, *, known: tuple[str, ...] | None) -> tuple[list[Box], bool]:
    """Reads one VOC file by the rules; also says whether it may be refused as well."""
    if b"<!ENTITY" in content:
        raise RefusedError
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError):
        raise RefusedError from None
    if root.tag != "annotation":
        raise RefusedError
    unclear = b"<!" in content.replace(b"<![CDATA[", b"").replace(b"<!--", b"")
    file = (root.findtext("filename") or "").strip()
    unclear |= len(root.findall("filename")) != 1 or file != image
    if file and file != image and file.replace("\\", "/").count("/") and _leaves(file, folder):
        raise UnclearError
    unclear |= _size(root)
    boxes = []
    for element in root.findall("object"):
        box, doubtful = _object(element, image, known)
        boxes += box
        unclear |= doubtful
    # Objects that are not right below the root, and doubled fields
    unclear |= len(root.findall(".//object")) != len(root.findall("object"))
    unclear |= len(list(root.iter("annotation"))) > 1
    return boxes, unclear


def _leaves(name: str, folder: Path) -> bool:
    return ".." in name or os.path.isabs(name)


def _size(root: ElementTree.Element) -> bool:
    """Checks the recorded size; says whether it is written so that it may be refused or passed over."""
    sides = [root.findtext(f"size/{tag}") for tag in ("width", "height")]
    doubled = len(root.findall("size")) > 1 or any(len(root.findall(f"size/{t}")) > 1 for t in ("width", "height"))
    if doubled or not all(side and re.fullmatch(r"\s*\d{1,6}\s*", side, re.ASCII) for side in sides):
        return True
    width, height = (int(side or 0) for side in sides)
    if min(width, height) == 0:
        return True
    if (width, height) != (WIDTH, HEIGHT):
        raise RefusedError
    return False


def _object(element: ElementTree.Element, image: str, known: tuple[str, ...] | None) -> tuple[list[Box], bool]:
    fields = ("name", "difficult", "bndbox", *(f"bndbox/{tag}" for tag in CORNERS))
    values = [field for field in fields if field != "bndbox"]
    doubled = any(len(element.findall(field)) > 1 for field in fields)
    doubled |= any(len(found) for value in values for found in element.findall(value))  # an element where a value is
    name = " ".join((element.findtext("name") or "").split())
    difficult = (element.findtext("difficult") or "0").strip()
    if not doubled:
        if not name or difficult not in ("0", "1") or (known is not None and name not in known):
            raise RefusedError
        corners = [number(element.findtext(f"bndbox/{tag}")) for tag in CORNERS]
        if None in corners:
            raise RefusedError
        inside = kept([corner for corner in corners if corner is not None])
        strange = not name.isprintable() or len(name) > 100
        if strange:
            raise UnclearError
        return ([(image, name, inside, difficult == "1")] if inside else []), False
    raise UnclearError  # the first or the last may be meant
