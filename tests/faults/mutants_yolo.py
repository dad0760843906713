"""YOLO labels and data.yaml with faults, and what they mean by a literal reading of the rules in docs/data.md."""

from __future__ import annotations

import random
from pathlib import Path

from mimicdet import load_dataset
from tests.faults.boxes import (
    FILES,
    HEIGHT,
    NAMES,
    NUMBER,
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
from tests.faults.yaml_faults import faulty_yaml

TOKENS = (
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1_0",
    "0_1",
    "١",
    "१",
    "0x1",
    "0,5",
    "-0.3",
    "2",
    "+0.4",
    "00.5",
    "5e-1",
    ".5",
    "1.",
    "1e0",
    "2.0",
    "3",
    "-1",
    "9" * 5000,
    "x" * 5000,
    "\x1b[2J",
    "0.1 0.2",
    "",
    "# 1",
    "猫",
    "1e-320",
    "true",
    "\x00",
    "\u2028",
    "\ud800",
    "1.5",
)
YAML = "path: .\ntrain: images/train\nnc: 3\nnames: [cat, dog, newt]\n"
EXOTIC = set("\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\x00\r")
"""Characters at which some tools end a line and some do not."""


def labels(rng: random.Random) -> str:
    """A good file of labels, of boxes and sometimes a polygon."""
    lines = []
    for _ in range(rng.randrange(2, 5)):
        w, h = rng.uniform(0.1, 0.4), rng.uniform(0.1, 0.4)
        x, y = rng.uniform(w / 2, 1 - w / 2), rng.uniform(h / 2, 1 - h / 2)
        values = [x, y, w, h]
        if rng.random() < 0.15:
            values = [x - w / 2, y - h / 2, x + w / 2, y - h / 2, x, y + h / 2]
        lines.append(" ".join([str(rng.randrange(3)), *(f"{value:.6f}" for value in values)]))
    return "\n".join(lines) + "\n"


def make(rng: random.Random, folder: Path) -> Mutant:
    """Writes a mutant to a folder: labels of three images, of which one file or data.yaml is changed."""
    write_images(folder / "images" / "train")
    (folder / "labels" / "train").mkdir(parents=True)
    contents = {file: labels(rng).encode() for file in FILES}
    text, sure = YAML.encode(), True
    if rng.random() < 0.65:
        file = rng.choice(FILES)
        kind, contents[file] = _mutated(contents[file], rng)
    else:
        kind, text, sure = _mutated_yaml(rng)
        kind = f"data.yaml: {kind}"
    (folder / "data.yaml").write_bytes(text)
    for name, content in contents.items():
        (folder / "labels" / "train" / name.replace(".png", ".txt")).write_bytes(content)
    expected: list[Box] = []
    refuse: bool | None = False
    try:
        unclear = False
        for name, content in contents.items():
            boxes, doubtful = literal_boxes(content, name)
            expected += boxes
            unclear |= doubtful
        refuse = False if teaches(expected) and not unclear and sure else None
    except RefusedError:
        refuse = True
    except UnclearError:
        refuse, expected = None, []

    def right(value: list[Box]) -> str | None:
        if not sure:  # the classes may have other names
            return compare([(f, "", b, c) for f, _, b, c in expected], [(f, "", b, c) for f, _, b, c in value])
        return compare(expected, value) if expected else None

    command = ("check", str(folder), "--max_faulty_boxes", "1")
    run = lambda: read(load_dataset(folder, "train", max_faulty_boxes=1.0))  # noqa: E731
    return Mutant(kind, run, right, refuse, command, (folder.name,))


def _mutated(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    if rng.random() < 0.3:
        return mutate_bytes(content, rng)
    kind, text = mutate_token(content.decode(), rng, TOKENS)
    return kind, text.encode("utf-8", "surrogatepass")


def _mutated_yaml(rng: random.Random) -> tuple[str, bytes, bool]:
    """Also says whether the file means what it meant before for sure."""
    how = rng.random()
    if how < 0.3:
        return (*mutate_bytes(YAML.encode(), rng), False)
    if how < 0.6:
        kind, text = mutate_token(YAML, rng, (*TOKENS, "[", "*a", "!!x", "/etc", "../..", "~", "a: b", "images/none"))
        return kind, text.encode("utf-8", "surrogatepass"), False
    kind, piece = faulty_yaml(rng)
    return kind, (piece + YAML).encode("utf-8", "surrogatepass"), False


def literal_boxes(content: bytes, image: str) -> tuple[list[Box], bool]:
    """Reads one file of labels by the rules; also says whether it may be refused as well."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RefusedError from None
    boxes: list[Box] = []
    if EXOTIC & set(text):
        raise UnclearError
    unclear = False
    for line in text.split("\n"):
        words = line.split()
        if not words:
            continue
        if not all(NUMBER.fullmatch(word) for word in words):
            if all(_in_words(word) or NUMBER.fullmatch(word) for word in words):
                raise UnclearError
            raise RefusedError
        values = [number(word) or 0.0 for word in words]
        inside = _line(values)
        if inside is not None:
            boxes.append((image, NAMES[int(values[0])], inside, False))
    return boxes, unclear


def _in_words(word: str) -> bool:
    return word.lower().lstrip("+-") in ("nan", "inf", "infinity")


def _line(values: list[float]) -> tuple[float, ...] | None:
    if len(values) != 5 and (len(values) < 7 or len(values) % 2 == 0):
        raise RefusedError
    if not float(values[0]).is_integer() or not 0 <= values[0] < len(NAMES):
        raise RefusedError
    if len(values) == 5:
        x, y, w, h = values[1:]
        corners = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    else:
        xs, ys = values[1::2], values[2::2]
        corners = (min(xs), min(ys), max(xs), max(ys))
    return kept([corner * side for corner, side in zip(corners, (WIDTH, HEIGHT) * 2, strict=True)])
