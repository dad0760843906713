"""Ten thousand mutants of files that people and programs write, each with what it should give."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from pathlib import Path

from tests.faults.cases import KINDS, prepare, trial
from tests.faults.pool import try_all
from tests.faults.table import Line


def mutants(
    place: Path, *, share: float, seed: int, jobs: int, kinds: Collection[str] = tuple(KINDS)
) -> Iterator[Line]:
    """Yields a line for each kind of mutant; ``share`` of them are tried."""
    prepare(place, kinds)
    for kind in kinds:
        began = time.perf_counter()
        number = max(1, round(KINDS[kind].total * share))
        line = Line(f"mutants of {_NAMES.get(kind, kind)}", tried=number)
        for outcome in try_all([(kind, seed + n) for n in range(number)], trial, place, workers=jobs):
            line.refused += outcome.verdict == "refused"
            line.right += outcome.verdict == "right"
            if outcome.verdict == "failed":
                line.failures.append(f"{outcome.fault} [{outcome.kind} {outcome.seed}, {outcome.name}]")
        line.seconds = time.perf_counter() - began
        yield line


_NAMES = {
    "settings": "settings (YAML)",
    "study": "studies (YAML)",
    "model": "model folders",
    "export": "exported files",
    "checkpoint": "checkpoints",
}
