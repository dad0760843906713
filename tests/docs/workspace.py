"""A folder in which the commands of the documents work as printed: data, photographs and models, all tiny."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mimicdet.cli import main
from mimicdet.config import Settings
from mimicdet.settings_file import load_settings
from tests.docs.pages import ROOT
from tests.fakes.toy import SIDE, toy_data

SIZE = {
    "--train.epochs": "1",
    "--train.batch_size": "2",
    "--train.pictures": "1",
    "--model.backbone": "test_resnet",
    "--model.weights": "random",
    "--model.pyramid_channels": "64",  # 32 groups are normalised over two channels each
    "--data.shorter_side": str(SIDE),
    "--data.longer_side": str(SIDE),
    "--data.workers": "0",
    "--inference.shorter_side": str(SIDE),
    "--inference.longer_side": str(SIDE),
}
"""What a ``mimicdet train`` line gets added, so that it takes a second: sizes, and nothing else."""
HEADS = {"--model.head_channels": "32", "--model.head_features": "32", "--teacher.conv_channels": "16"}
"""Sizes that MimicDet alone has."""
RUNS = ("cells", "teacher", "trees", "without")
"""Runs that pages name as there already; of all but the first the model alone."""


def with_sizes(words: list[str]) -> list[str]:
    """Returns a command's words; ``mimicdet train`` gets sizes that it does not name itself."""
    if words[1] != "train" or "--resume" in words:
        return words
    dense = "--model.family" in words or any(word.startswith("small_") for word in words)
    size = SIZE if dense else SIZE | HEADS
    return words + [word for option, value in size.items() if option not in words for word in (option, value)]


def small_settings(preset: str | None = None, changes: Mapping[str, Any] | None = None, **others: Any) -> Settings:
    """Does as ``load_settings``, with the same sizes where a preset is asked for."""
    size: dict[str, Any] = {}
    if preset:
        words = with_sizes(["mimicdet", "train", "--preset", preset])[4:]
        size = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
        size = {name: int(value) if value.isdecimal() else value for name, value in size.items()}
        size["data.shorter_side"] = [SIDE]
    return load_settings(preset, size | dict(changes or {}), **others)


def make_workspace(folder: Path) -> Path:
    """Returns ``folder`` with all that the documents' commands read; takes some seconds."""
    cells = folder / "cells"
    for split, images in (("train", 8), ("valid", 3), ("test", 2)):
        dataset = dataclasses.replace(toy_data(cells / split, images=images, empty=()), split=split)
        (cells / f"{split}.json").write_text(json.dumps(dataset.to_coco()))
    aquarium = folder / "aquarium"
    for split in ("train", "valid", "test"):
        shutil.copytree(cells / split, aquarium / split)
        shutil.copy(cells / f"{split}.json", aquarium / split / "_annotations.coco.json")
    (folder / "photos").mkdir()
    for number in range(2):
        shutil.copy(cells / "valid" / f"{number}.png", folder / "photos")
    Image.open(cells / "valid" / "0.png").save(folder / "photo.jpg")
    Image.open(cells / "valid" / "1.png").resize((3 * SIDE, 2 * SIDE)).save(folder / "aerial.png")
    for name in ("studies", "benchmarks", "docs"):
        (folder / name).symlink_to(ROOT / name)
    words = ["train", str(cells), "--preset", "small", "--out", str(folder / "runs" / RUNS[0])]
    learn = {"--train.epochs": "4", "--optim.lr": "0.01", "--optim.backbone_lr_factor": "1"}
    size = SIZE | HEADS | learn
    assert main([*words, *(word for pair in size.items() for word in pair)]) == 0
    for name in RUNS[1:]:
        shutil.copytree(folder / "runs" / RUNS[0] / "model", folder / "runs" / name / "model")
    return folder
