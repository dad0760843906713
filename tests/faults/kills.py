"""Kills at every write and at random moments, and signals that ask to stop; then the same command again.

Afterwards what bears its final name must be whole, the last checkpoint usable, and the next start must leave the very
bytes of an undisturbed run, and no other file.
"""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.forked import Running
from tests.faults.table import Line
from tests.faults.works import (
    STUDY,
    WORKS,
    Inputs,
    Work,
    all_whole,
    finish,
    last_checkpoint_is_usable,
    last_line,
    launch,
    make_study,
    same_names,
)

RANDOM_KILLS, SIGNALS = 50, 10
"""So many of works that take some seconds, fewer of slower ones; signals of each of SIGTERM and SIGINT."""
ENDS_WITHIN = 60.0
"""Seconds in which a process that was asked to stop must end."""


@dataclass(frozen=True)
class Straight:
    """An undisturbed run of a work: its folder, its seconds, and how often it touched the disk."""

    folder: Path
    seconds: float
    touches: int


def straight_run(work: Work, inputs: Inputs, place: Path, how: str = "kill") -> Straight:
    """Runs a work undisturbed, and counts the moments at which ``how`` could strike."""
    folder, counted = place / "straight", place / "straight.count"
    folder.mkdir(parents=True)
    work.prepare(inputs, folder)
    began = time.perf_counter()
    running = launch(work, inputs, folder, hook={"count_file": counted, "how": how} if work.hooked else None)
    for one in running:
        code = one.ends(600)
        assert code == 0, f"{work.name} fails undisturbed: {one.told}"
    return Straight(folder, time.perf_counter() - began, int(counted.read_text()) if counted.exists() else 0)


def consequences(work: Work, inputs: Inputs, folder: Path, straight: Straight) -> str | None:
    """Returns what is wrong after a fault and after the next start; None where nothing is."""
    try:
        all_whole(folder)
        last_checkpoint_is_usable(folder)
        finish(work, inputs, folder, straight.folder)
        all_whole(folder)
        work.same(folder, straight.folder)
        same_names(folder, straight.folder)
    except AssertionError as error:
        return str(error)
    return None


def in_parallel(trials: list[Callable[[], str | None]], line: Line, jobs: int) -> None:
    """Runs trials, some at a time, and counts what survives."""
    with ThreadPoolExecutor(jobs) as pool:
        for found in pool.map(lambda trial: trial(), trials):
            line.survive(found)


def kills(
    inputs: Inputs, place: Path, *, share: float, seed: int, jobs: int, works: tuple[Work, ...] = WORKS
) -> Iterator[Line]:
    """Yields a line for each work and kind of interruption; ``share`` of the trials are made."""
    rng = random.Random(seed)
    for work in works:
        if "study" in work.name and not inputs.study.exists():
            make_study(inputs)
        home = place / work.name.replace(" ", "-").replace(",", "")
        straight = straight_run(work, inputs, home)
        for kind, faults in _plan(work, straight, share, rng):
            began = time.perf_counter()
            line = Line(f"{work.name}: {kind}")
            trials = [
                trial_of(work, inputs, home / f"{kind[:4]}{n}", straight, fault) for n, fault in enumerate(faults)
            ]
            in_parallel(trials, line, jobs)
            line.seconds = time.perf_counter() - began
            yield line
        shutil.rmtree(home)


Fault = Callable[[Work, Inputs, Path, Straight], str | None]


def _plan(work: Work, straight: Straight, share: float, rng: random.Random) -> Iterator[tuple[str, list[Fault]]]:
    def some(number: float) -> int:
        return max(1, round(number * share))

    if work.hooked:
        every = range(1, straight.touches + 1)
        yield "killed at every write", [_killed_at(n) for n in sorted(rng.sample(every, some(len(every))))]
    slow = max(1, work.weight / 3)
    moments = [rng.uniform(0, straight.seconds) for _ in range(some(RANDOM_KILLS / slow))]
    yield "killed at random moments", [_signalled(moment, signal.SIGKILL) for moment in moments]
    for number in (signal.SIGTERM, signal.SIGINT):
        moments = [rng.uniform(0, straight.seconds) for _ in range(some(SIGNALS / slow))]
        yield f"stopped by {number.name}", [_signalled(moment, number) for moment in moments]


def trial_of(work: Work, inputs: Inputs, folder: Path, straight: Straight, fault: Fault) -> Callable[[], str | None]:
    """Returns a trial that puts a fault in, and says what is wrong after it and after the next start."""

    def trial() -> str | None:
        folder.mkdir()
        work.prepare(inputs, folder)
        found = fault(work, inputs, folder, straight) or consequences(work, inputs, folder, straight)
        shutil.rmtree(folder)
        return found and f"{found} [{folder.name}]"

    return trial


def _killed_at(touch: int) -> Fault:
    def fault(work: Work, inputs: Inputs, folder: Path, straight: Straight) -> str | None:
        running = launch(work, inputs, folder, hook={"at": touch, "how": "kill"}, straight=straight.folder)
        running[0].ends(300)
        for other in running[1:]:  # the machine has lost its power
            other.send(signal.SIGKILL, group=True)
            other.ends(10)
        return None

    return fault


def _signalled(moment: float, number: int) -> Fault:
    def fault(work: Work, inputs: Inputs, folder: Path, _: Straight) -> str | None:
        running = launch(work, inputs, folder)
        for one in running:
            one.begun()
        time.sleep(moment)
        for one in running:
            one.send(number, group=number == signal.SIGKILL or work is not STUDY)
        return _end_as_asked(running, number)

    return fault


def _end_as_asked(running: list[Running], number: int) -> str | None:
    if number == signal.SIGKILL:
        for one in running:
            one.ends(ENDS_WITHIN)
        return None
    codes: list[Any] = [one.ends(ENDS_WITHIN) for one in running]
    for code, one in zip(codes, running, strict=True):
        if code is None:
            return f"no end within {ENDS_WITHIN:.0f} s of a signal: {last_line(one.told)}"
        if "Traceback" in one.told:
            return f"traceback after a signal: {last_line(one.told)}"
        if code not in (0, 130, -number):
            return f"exit code {code} after a signal: {last_line(one.told)}"
    return None
