"""A disk that is full at every write, and real ones that are too small; then there is space, and the command again.

A command that meets a full disk says so in one sentence with exit code 2. What it leaves is as after a kill.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.forked import Running
from tests.faults.kills import Fault, Straight, consequences, in_parallel, straight_run, trial_of
from tests.faults.table import Line
from tests.faults.works import STUDY, WORKS, Inputs, Work, last_line, launch, make_study, names

SIZES = 20
"""So many sizes of disks are tried of works that take some seconds, fewer of slower ones."""
PLENTY = 1 << 30


def full_disks(
    inputs: Inputs, place: Path, *, share: float, seed: int, jobs: int, works: tuple[Work, ...] = WORKS
) -> Iterator[Line]:
    """Yields a line for each work and kind of disk."""
    rng = random.Random(seed)
    for work in works:
        if "study" in work.name and not inputs.study.exists():
            make_study(inputs)
        home = place / f"full-{work.name.replace(' ', '-').replace(',', '')}"
        straight = straight_run(work, inputs, home, how="full")
        if work.hooked:
            every = range(1, straight.touches + 1)
            chosen = sorted(rng.sample(every, max(1, round(len(every) * share))))
            trials = [trial_of(work, inputs, home / f"at{n}", straight, _full_at(n)) for n in chosen]
            yield _line(f"{work.name}: disk full at every write", trials, jobs)
        if can_mount():
            slow = max(1.0, work.weight / 3)
            sizes = [rng.random() for _ in range(max(1, round(SIZES * share / slow)))]
            most = sum((straight.folder / name).stat().st_size for name in names(straight.folder))
            trials = [
                _on_small_disk(work, inputs, home / f"of{n}", straight, int(most * s)) for n, s in enumerate(sizes)
            ]
            yield _line(f"{work.name}: disk too small", trials, jobs)
        shutil.rmtree(home)


def _line(name: str, trials: list[Callable[[], str | None]], jobs: int) -> Line:
    began = time.perf_counter()
    line = Line(name)
    in_parallel(trials, line, jobs)
    line.seconds = time.perf_counter() - began
    return line


def _full_at(touch: int) -> Fault:
    hook = {"at": touch, "how": "full"}
    return lambda work, inputs, folder, straight: one_sentence(
        launch(work, inputs, folder, hook=hook, straight=straight.folder)
    )


def one_sentence(running: list[Running], within: float = 120.0) -> str | None:
    """Returns what is wrong with how processes end that meet a fault which is told to the user."""
    codes = [one.ends(within) for one in running]
    for code, one in zip(codes, running, strict=True):
        if code is None:
            return f"no end within {within:.0f} s: {last_line(one.told)}"
        if "Traceback" in one.told:
            return f"traceback: {last_line(one.told)}"
        if code not in (0, 2):  # 0: it was not needed
            return f"exit code {code}: {last_line(one.told)}"
    if 2 in codes and not any("error: " in one.told for one in running):
        return "exit code 2 without a sentence: " + last_line(running[0].told)
    return None


def can_mount() -> bool:
    """Says whether this user may mount a disk of its own: root outside of most containers."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode == 0


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mounts a disk of some bytes on a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(size, 4096)}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _on_small_disk(work: Work, inputs: Inputs, folder: Path, straight: Straight, size: int) -> Callable[[], str | None]:
    def trial() -> str | None:
        folder.mkdir()
        with small_disk(folder, PLENTY):
            work.prepare(inputs, folder)
            used = sum((folder / name).stat().st_size for name in names(folder))
            _resize(folder, used + size)
            found = one_sentence(launch(work, inputs, folder), within=300.0 if work is STUDY else 120.0)
            _resize(folder, PLENTY)
            found = found or consequences(work, inputs, folder, straight)
        folder.rmdir()
        return found and f"{found} [{size} bytes]"

    return trial


def _resize(folder: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={max(size, 4096)}", str(folder)], check=True)
