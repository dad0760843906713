"""Checkpoints with faults: the one before is whole, so the run must end with the very same weights."""

from __future__ import annotations

import hashlib
import pickle
import random
import shutil
from pathlib import Path
from unittest.mock import patch

import torch

from mimicdet import load_dataset
from mimicdet.engine.train import train
from mimicdet.settings_file import load_settings
from tests.faults.judge import Mutant
from tests.faults.mutants_model import Payload
from tests.faults.mutate import mutate_bytes


def make(rng: random.Random, folder: Path) -> Mutant:
    """Writes a mutant of a run's last checkpoint, sometimes of both."""
    inputs = folder.parent / "inputs"
    shutil.copytree(inputs / "run", folder / "run")
    checkpoints = folder / "run" / "checkpoints"
    kind = _spoil(checkpoints / "last.pt", rng)
    refuse: bool | None = False
    if rng.random() < 0.1:
        kind, refuse = f"both: {kind}, {_spoil(checkpoints / 'previous.pt', rng)}", None

    def run() -> str:
        cells = inputs / "cells"
        data = {"train_data": load_dataset(cells, "train"), "val_data": load_dataset(cells, "valid")}
        with patch("mimicdet.engine.evaluate.draw_curves", lambda *_: None):  # it takes longer than all the rest
            train(settings=load_settings(config=inputs / "toy.yaml"), **data, out=folder / "run", resume=True)
        assert not (folder / "run" / "checkpoints" / "executed").exists(), "the checkpoint's code was executed"
        return weights_of(folder / "run")

    def right(value: str) -> str | None:
        return None if value == weights_of(inputs / "run") else "other weights than of the undisturbed run"

    return Mutant(kind, run, right, refuse, (), ("checkpoints",))


def weights_of(run: Path) -> str:
    """Returns a hash of both models of a run."""
    files = [run / name / "model.safetensors" for name in ("model", "model-last")]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _spoil(file: Path, rng: random.Random) -> str:
    kind = rng.choice(("bytes", "bytes", "bytes", "lost", "payload", "other content", "zeros", "tail of zeros"))
    if kind == "bytes":
        kind, content = mutate_bytes(file.read_bytes(), rng)
        file.write_bytes(content)
    elif kind == "lost":
        file.unlink()
    elif kind == "payload":
        file.write_bytes(pickle.dumps(Payload(file.with_name("executed"))))
    elif kind == "other content":
        torch.save(rng.choice(({}, [], {"format": "other"}, torch.zeros(3))), file)
    else:  # what file systems leave after power is lost
        content = file.read_bytes()
        whole = len(content) if kind == "zeros" else rng.randrange(len(content))
        file.write_bytes(content[: len(content) - whole] + bytes(whole))
    return kind
