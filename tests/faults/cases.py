"""The kinds of mutants, and the trial of one by kind and seed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.faults import mutants_coco, mutants_voc, mutants_yolo
from tests.faults.judge import Mutant, Outcome, judge

KINDS: dict[str, tuple[int, Callable[[random.Random, Path], Mutant]]] = {
    "COCO": (3000, mutants_coco.make),
    "VOC": (2200, mutants_voc.make),
    "YOLO": (2200, mutants_yolo.make),
}
"""How many of each are tried in all, and what makes one."""


def trial(kind: str, seed: int, place: Path) -> Outcome:
    """Makes and judges one mutant."""
    folder = place / f"{kind.replace(' ', '')}{seed}"
    folder.mkdir(parents=True)
    try:
        mutant = KINDS[kind][1](random.Random(f"{kind} {seed}"), folder)
        verdict, fault = judge(mutant)
        return Outcome(kind, seed, mutant.name, verdict, fault)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
