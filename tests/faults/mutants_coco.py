"""COCO files with faults, and what they mean by a literal reading of the rules in docs/data.md."""

from __future__ import annotations

import json
import math
import os
import random
from pathlib import Path
from typing import Any

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
    read,
    teaches,
    write_images,
)
from tests.faults.judge import Mutant
from tests.faults.mutate import mutate_bytes, mutate_json

INT64 = range(-(2**63), 2**63)


def document(rng: random.Random) -> dict[str, Any]:
    """A good COCO document of three images."""
    images = [{"id": 5 + n, "file_name": name, "width": WIDTH, "height": HEIGHT} for n, name in enumerate(FILES)]
    categories = [{"id": 2 * n + 1, "name": name} for n, name in enumerate(NAMES)]
    annotations = []
    for n in range(8):
        x, y, w, h = rng.randrange(0, 25), rng.randrange(0, 15), rng.randrange(3, 15), rng.randrange(3, 15)
        ids = {"id": n + 1, "image_id": 5 + n % 3, "category_id": 2 * rng.randrange(3) + 1}
        annotations.append({**ids, "bbox": [x, y, w, h], "area": w * h, "iscrowd": int(n == 7)})
    return {"images": images, "annotations": annotations, "categories": categories}


def make(rng: random.Random, folder: Path) -> Mutant:
    """Writes a mutant to a folder."""
    write_images(folder / "train")
    changed, kinds = document(rng), []
    by_bytes = rng.random() < 0.25
    for _ in range(0 if by_bytes else rng.choice((0, 1, 1, 1, 1, 2, 3))):
        kind, changed = mutate_json(changed, rng)
        kinds.append(kind)
    content = json.dumps(changed).encode()
    if by_bytes:
        kind, content = mutate_bytes(content, rng)
        kinds = [kind]
    if rng.random() < 0.03:
        kinds, content = ["5,000 digits"], content.replace(b'"id": 2', b'"id": ' + b"9" * 5000)
    (folder / "train.json").write_bytes(content)
    expected: list[Box] = []
    refuse: bool | None = False
    try:
        expected = literal_boxes(content, folder)
        refuse = False if teaches(expected) else None
    except RefusedError:
        refuse = True
    except UnclearError:
        refuse = None

    def right(value: list[Box]) -> str | None:
        return compare(expected, value) if refuse is False or expected else None

    command = ("check", str(folder), "--max_faulty_boxes", "1")
    return Mutant(
        "+".join(kinds) or "none",
        lambda: read(load_dataset(folder, "train", max_faulty_boxes=1.0)),
        right,
        refuse,
        command,
        (folder.name,),
    )


def literal_boxes(content: bytes, folder: Path) -> list[Box]:
    """Reads COCO by the rules, one after the other."""
    try:
        text = content.decode("utf-8-sig")
        whole = json.loads(text, object_pairs_hook=_fields)
    except (ValueError, RecursionError):
        raise RefusedError from None
    if not isinstance(whole, dict):
        raise RefusedError
    if "annotations" not in whole and isinstance(whole.get("images"), list):
        raise UnclearError  # a list of images to predict
    if not all(isinstance(whole.get(key), list) for key in ("images", "annotations", "categories")):
        raise RefusedError
    names, unclear = _categories(whole["categories"])
    files = _images(whole["images"], folder)
    unclear |= len(set(files.values())) < len(files)
    boxes, numbers = [], set[Any]()
    for entry in whole["annotations"]:
        if not isinstance(entry, dict):
            raise RefusedError
        unclear |= _strange_id(entry.get("id"), numbers)
        image, category, crowd, box = (entry.get(key) for key in ("image_id", "category_id", "iscrowd", "bbox"))
        image, category = whole_number(image), whole_number(category)
        if image not in files or category not in names or not isinstance(box, list) or len(box) != 4:
            raise RefusedError
        if not all(type(value) in (int, float) for value in box) or crowd not in (None, 0, 1):
            raise RefusedError
        unclear |= type(crowd) not in (int, type(None))
        x, y, w, h = (_float(value) for value in box)
        if (corners := kept((x, y, x + w, y + h))) is not None:
            boxes.append((files[image], names[category], corners, bool(crowd)))
    if not files:
        raise RefusedError
    if unclear:
        raise UnclearError
    return boxes


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) < len(pairs):
        raise RefusedError  # which of the two is meant?
    return dict(pairs)


def whole_number(value: Any) -> int | None:
    """Returns a whole number within 64 bits, also 3.0; None for anything else."""
    if type(value) is float and math.isfinite(value) and value.is_integer():
        value = int(value)
    return value if type(value) is int and value in INT64 else None


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _categories(entries: list[Any]) -> tuple[dict[int, str], bool]:
    names: dict[int, str] = {}
    unclear = False
    for entry in entries:
        if not isinstance(entry, dict) or (number := whole_number(entry.get("id"))) is None:
            raise RefusedError
        if not isinstance(entry.get("name"), str):
            raise RefusedError
        name = " ".join(entry["name"].split())
        if not name or not name.isprintable() or number in names or name in names.values():
            raise RefusedError
        unclear |= len(name) > 200
        names[number] = name
    if not names:
        raise RefusedError
    return names, unclear


def _images(entries: list[Any], folder: Path) -> dict[int, str]:
    files: dict[int, str] = {}
    for entry in entries:
        if not isinstance(entry, dict) or (number := whole_number(entry.get("id"))) is None or number in files:
            raise RefusedError
        name, sides = entry.get("file_name"), (entry.get("width"), entry.get("height"))
        if not isinstance(name, str) or not name.strip():
            raise RefusedError
        if sides != (None, None) and tuple(map(whole_number, sides)) != (WIDTH, HEIGHT):
            raise RefusedError
        files[number] = _file(name, folder)
    return files


def _file(name: str, folder: Path) -> str:
    for spelling in (name, name.replace("\\", "/")):
        for home in (folder / "train", folder):
            try:
                there = os.path.isfile(os.path.join(home, spelling))
            except (ValueError, UnicodeError):
                there = False
            if there:
                real = Path(os.path.join(home, spelling)).resolve()
                if not real.is_relative_to(folder.resolve()) or real.suffix != ".png":
                    raise RefusedError
                if ".." in spelling or os.path.isabs(spelling):
                    raise UnclearError
                return real.name
    raise RefusedError


def _strange_id(number: Any, numbers: set[Any]) -> bool:
    """Remembers the id of an annotation; says whether it is one that may be refused."""
    if isinstance(number, int | str):
        if number in numbers:
            raise RefusedError
        numbers.add(number)
    return type(number) is not int or number not in INT64
