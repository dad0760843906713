"""Model folders and exported files with faults in the description or in the weights."""

from __future__ import annotations

import json
import pickle
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from mimicdet import Detector
from tests.faults.judge import Mutant
from tests.faults.mutate import mutate_bytes, mutate_json

IMAGE = np.full((64, 64, 3), 90, np.uint8)
ABSURD: tuple[tuple[str, Any], ...] = (
    ("format_version", 2),
    ("format_version", float("inf")),
    ("format_version", float("nan")),
    ("format_version", None),
    ("format_version", []),
    ("format_version", "x"),
    ("family", "nosuch"),
    ("family", None),
    ("family", []),
    ("model", []),
    ("model.backbone", "nosuch"),
    ("model.backbone", "../../x"),
    ("model.backbone", None),
    ("model.pyramid_channels", 10**9),
    ("model.pyramid_channels", 10**12),
    ("model.pyramid_channels", -8),
    ("model.head_features", 10**10),
    ("model.head_channels", 0),
    ("model.kernel_size", 10**6 + 1),
    ("model.levels", list(range(3, 200))),
    ("model.levels", []),
    ("model.levels", [3, 3]),
    ("inference.shorter_side", -1),
    ("inference.shorter_side", 0),
    ("inference.shorter_side", 10**9),
    ("inference.nms_iou", 7),
    ("inference.longer_side", "x"),
    ("inference.positions", -5),
    ("inference.max_detections", 0),
    ("inference", None),
    ("categories", []),
    ("categories", None),
    ("categories", {}),
    ("categories.0.id", 2.7),
    ("categories.0.id", None),
    ("categories.0.id", "one"),
    ("categories.0.id", 10**30),
    ("categories.0.name", None),
    ("categories.0.name", 5),
    ("categories.0.name", ""),
    ("categories.0.name", []),
)
"""What a description must not say."""


def model(rng: random.Random, folder: Path) -> Mutant:
    """Writes a mutant of a model folder."""
    shutil.copytree(folder.parent / "inputs" / "run" / "model", folder / "model")
    description, weights = folder / "model" / "model.json", folder / "model" / "model.safetensors"
    if rng.random() < 0.25:
        kind, refuse = _spoil_weights(weights, rng)
    else:
        kind, refuse = _spoil_description(description, rng)
    return Mutant(kind, lambda: _categories(folder / "model"), _same(description), refuse, (), (folder.name,))


def exported(rng: random.Random, folder: Path) -> Mutant:
    """Writes a mutant of an exported file's description, or of the file."""
    for name in ("model.onnx", "model.onnx.json"):
        shutil.copy(folder.parent / "inputs" / name, folder)
    file, description = folder / "model.onnx", folder / "model.onnx.json"
    if rng.random() < 0.2:
        kind, content = mutate_bytes(file.read_bytes(), rng)
        file.write_bytes(content)
        refuse = None
    else:
        kind, refuse = _spoil_description(description, rng)
        refuse = None if "model" in kind or "family" in kind else refuse
    return Mutant(kind, lambda: _categories(file), _same(description), refuse, (), (folder.name,))


def _spoil_description(file: Path, rng: random.Random) -> tuple[str, bool | None]:
    document, how = json.loads(file.read_text()), rng.random()
    if how < 0.5:
        name, value = rng.choice(ABSURD)
        place, keys = document, name.split(".")
        for key in keys[:-1]:
            place = place[int(key)] if isinstance(place, list) else place.get(key, {})
        place[int(keys[-1]) if isinstance(place, list) else keys[-1]] = value
        kind, refuse, content = f"{name} {value!r:.20}", True, json.dumps(document).encode()
    elif how < 0.55:
        document["categories"].append(dict(document["categories"][0]))
        kind, refuse, content = "doubled category", True, json.dumps(document).encode()
    elif how < 0.85:
        kind, changed = mutate_json(document, rng)
        refuse = False if json.dumps(changed) == json.dumps(document) else None  # True == 1 in Python
        content = json.dumps(changed).encode()
    else:
        kind, content = mutate_bytes(file.read_bytes(), rng)
        refuse = None
    file.write_bytes(content)
    return kind, refuse


def _spoil_weights(file: Path, rng: random.Random) -> tuple[str, bool | None]:
    kind = rng.choice(
        ("bytes", "bytes", "cut off", "all NaN", "tensor lost", "tensor renamed", "other shape", "pickle")
    )
    if kind in ("bytes", "cut off"):
        content = file.read_bytes()
        if kind == "bytes":
            kind, content = mutate_bytes(content, rng)
            kind = f"weights: {kind}"
        else:
            content = content[: rng.randrange(len(content))]
        refuse = True if kind == "cut off" else None
        file.write_bytes(content)
        return kind, refuse
    if kind == "pickle":
        file.write_bytes(pickle.dumps(Payload(file.with_name("executed"))))
        return kind, True
    state = safetensors.torch.load(file.read_bytes())
    name = rng.choice(sorted(state))
    if kind == "all NaN":
        state = {key: torch.full_like(v, float("nan")) if v.is_floating_point() else v for key, v in state.items()}
    elif kind == "tensor lost":
        del state[name]
    elif kind == "tensor renamed":
        state[f"{name}x"] = state.pop(name)
    else:
        state[name] = torch.zeros((*state[name].shape, 2))
    safetensors.torch.save_file(state, file)
    return kind, True


class Payload:
    """Pickled, it makes a file where it is read: harmless, and seen."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def _categories(path: Path) -> list[tuple[Any, Any]]:
    """Loads a model and detects in an image; returns its categories."""
    try:
        detector = Detector.from_pretrained(path, "cpu")
        detector(IMAGE)
        return [(category.id, category.name) for category in detector.categories]
    finally:
        assert not list(path.parent.rglob("executed")), "the file's code was executed"


def _same(description: Path) -> Any:
    def right(value: list[tuple[Any, Any]]) -> str | None:
        try:
            said = [(entry["id"], entry["name"]) for entry in json.loads(description.read_bytes())["categories"]]
        except Exception as error:
            return f"accepted a description that is none ({type(error).__name__})"
        if len(set(value)) != len(value) or len({number for number, _ in value}) != len(value):
            return f"categories are doubled: {value}"
        return None if value == said else f"categories {value} and not {said}"

    return right
