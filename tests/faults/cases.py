"""The kinds of mutants, and the trial of one by kind and seed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from tests.faults import mutants_checkpoint, mutants_coco, mutants_model, mutants_voc, mutants_yaml, mutants_yolo
from tests.faults.judge import Mutant, Outcome, judge
from tests.faults.works import EXPORT, Inputs, launch, make_inputs


class Kind(NamedTuple):
    """How many are tried in all, what makes one in a folder, and whether it needs what ``prepare`` makes."""

    total: int
    make: Callable[[random.Random, Path], Mutant]
    needs_run: bool = False


KINDS = {
    "COCO": Kind(3000, mutants_coco.make),
    "VOC": Kind(2200, mutants_voc.make),
    "YOLO": Kind(2200, mutants_yolo.make),
    "settings": Kind(900, mutants_yaml.settings),
    "study": Kind(500, mutants_yaml.study),
    "model": Kind(600, mutants_model.model, True),
    "export": Kind(300, mutants_model.exported, True),
    "checkpoint": Kind(300, mutants_checkpoint.make, True),
}


def prepare(place: Path, kinds: Collection[str]) -> None:
    """Makes what mutants of these kinds are copies of: a run, and an exported file."""
    place.mkdir(parents=True, exist_ok=True)
    if any(KINDS[kind].needs_run for kind in kinds) and not (place / "inputs").exists():
        make_inputs(place / "inputs")
    if "export" in kinds and not (place / "inputs" / "model.onnx").exists():
        (running,) = launch(EXPORT, Inputs(place / "inputs"), place / "inputs")
        assert running.ends(300) == 0, running.told


def trial(kind: str, seed: int, place: Path) -> Outcome:
    """Makes and judges one mutant."""
    folder = place / f"{kind}{seed}"
    folder.mkdir(parents=True)
    try:
        mutant = KINDS[kind].make(random.Random(f"{kind} {seed}"), folder)
        return Outcome(kind, seed, mutant.name, *judge(mutant))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
