"""Files of settings and of studies with faults; a good one comes back from its own copy as it was."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from mimicdet.config import Settings
from mimicdet.lab.study.plan import plan
from mimicdet.lab.study.study_file import read_study
from mimicdet.settings_file import dump_settings, load_settings, parse_settings
from tests.fakes.toy import toy_settings
from tests.faults.judge import Mutant
from tests.faults.mutate import mutate_bytes, mutate_json
from tests.faults.yaml_faults import faulty_yaml

NUMBERS = ("optim.lr", "optim.weight_decay", "train.epochs", "train.batch_size", "data.longer_side", "loss.t_boxes")
NO_NUMBERS: tuple[Any, ...] = (
    "abc",
    "1",
    None,
    [],
    {},
    [1],
    {"a": 1},
    float("nan"),
    float("inf"),
    -1,
    True,
    "x" * 5000,
)
HARMLESS = ("nothing", "directive")
"""Pieces of YAML that add no key, so that they may be accepted."""


def settings(rng: random.Random, folder: Path) -> Mutant:
    """Writes a mutant of a complete file of settings."""
    good = yaml.safe_load(dump_settings(toy_settings()))
    file, refuse, how = folder / "mine.yaml", None, rng.random()
    if how < 0.3:
        name, value = rng.choice(NUMBERS), rng.choice(NO_NUMBERS)
        section, _, key = name.partition(".")
        good[section][key], refuse, kind = value, True, f"{name}: no number"
        content = yaml.safe_dump(good).encode()
    elif how < 0.4:
        section = rng.choice([key for key, value in good.items() if isinstance(value, dict)])
        place = rng.choice((good, good[section]))
        place[rng.choice(("nosuch", "x" * 200, "l\x1br", "猫", "lrr"))] = 1
        content, refuse, kind = yaml.safe_dump(good).encode(), True, "unknown key"
    elif how < 0.65:
        kind, piece = faulty_yaml(rng)
        content = (piece + yaml.safe_dump(good)).encode("utf-8", "surrogatepass")
        refuse = None if kind in HARMLESS else True
    elif how < 0.85:
        kind, good = mutate_json(good, rng)
        content = json.dumps(good).encode()  # as YAML too
    else:
        kind, content = mutate_bytes(yaml.safe_dump(good).encode(), rng)
    file.write_bytes(content)

    def right(value: Settings) -> str | None:
        return None if parse_settings(dump_settings(value), "copy") == value else "another copy of the settings"

    return Mutant(kind, lambda: load_settings(config=file), right, refuse, (), (file.name,))


def study(rng: random.Random, folder: Path) -> Mutant:
    """Writes a mutant of a study's file."""
    good: dict[str, Any] = {
        "title": "Toy",
        "data": "cells",
        "val": "valid",
        "seeds": [0, 1],
        "baseline": "alone",
        "preset": "small_gfl",
        "set": {"train.epochs": 1, "data.shorter_side": [64]},
        "runs": [
            {"name": "teacher", "seeds": [0]},
            {"name": "alone"},
            {"name": "taught", "published": "+2.9 AP", "set": {"task": "distill", "distill.teachers": ["run:teacher"]}},
        ],
    }
    file, refuse, how = folder / "mine.yaml", None, rng.random()
    if how < 0.3:
        kind, piece = faulty_yaml(rng)
        content = (piece + yaml.safe_dump(good)).encode("utf-8", "surrogatepass")
        refuse = None if kind in HARMLESS else True
    elif how < 0.8:
        kind, good = mutate_json(good, rng)
        content = json.dumps(good).encode()
    else:
        kind, content = mutate_bytes(yaml.safe_dump(good).encode(), rng)
    file.write_bytes(content)

    def run() -> list[str]:
        read = read_study(file)
        return sorted({job.run for job in plan(read, file, folder / "out")})

    def right(value: list[str]) -> str | None:
        if how < 0.3 or how >= 0.8:
            return None
        expected = sorted(one["name"] for one in good["runs"])
        return None if value == expected else f"runs {value} and not {expected}"

    return Mutant(kind, run, right, refuse, (), (file.name,))
