"""Tries many inputs in a few processes, each input within a time and a memory of its own."""

from __future__ import annotations

import contextlib
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from tests.faults.forked import Running, context, start
from tests.faults.judge import Outcome

MOST_SECONDS = 5.0
"""Of the processor, which other programs on the machine do not lengthen; by the clock, ``PATIENCE`` times as much."""
PATIENCE = 6
MOST_BYTES = 2 << 30
"""Of memory, above what the process had."""

Trial = Callable[[str, int, Path], Outcome]


@dataclass
class _Worker:
    running: Running
    pipe: Connection
    pid: int


def _serve(pipe: Connection, trial: Trial, place: Path) -> None:
    """Tries what comes through the pipe; sends the outcome and the peak of memory."""
    base = _memory("VmRSS")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + 3 * MOST_BYTES, hard))  # before the machine suffers
    pipe.send("ready")
    while (job := pipe.recv()) is not None:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        outcome = trial(*job, place)
        pipe.send((outcome, _memory("VmHWM") - base))


def _memory(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def try_all(jobs: Sequence[tuple[str, int]], trial: Trial, place: Path, *, workers: int) -> Iterator[Outcome]:
    """Yields the outcome of each (kind, seed), in order; one that takes too long or too much has failed."""
    place.mkdir(parents=True, exist_ok=True)
    own = threading.local()
    every: list[_Worker] = []

    def tried(job: tuple[str, int]) -> Outcome:
        worker: _Worker | None = getattr(own, "worker", None)
        if worker is None:
            worker = own.worker = _hire(trial, place)
            every.append(worker)
        outcome = _within_limits(worker, job)
        if outcome.verdict == "failed" and outcome.fault.startswith(("takes", "process")):
            own.worker = None
        return outcome

    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(tried, jobs)
    for worker in every:
        with contextlib.suppress(OSError):
            worker.pipe.send(None)
        worker.running.ends(5)


_number = iter(range(1_000_000))


def _hire(trial: Trial, place: Path) -> _Worker:
    mine, theirs = context().Pipe()
    running = start(_serve, theirs, trial, place, log=place / f"worker{next(_number)}.log")
    theirs.close()
    assert mine.poll(120), running.told
    assert mine.recv() == "ready"
    assert running.process.pid is not None
    return _Worker(running, mine, running.process.pid)


def _within_limits(worker: _Worker, job: tuple[str, int]) -> Outcome:
    def failed(fault: str) -> Outcome:
        worker.running.send(signal.SIGKILL, group=True)
        return Outcome(*job, "", "failed", fault)

    began, before = time.monotonic(), _seconds(worker)
    worker.pipe.send(job)
    while not worker.pipe.poll(0.2):
        if not worker.running.process.is_alive():
            return failed(f"process died: exit code {worker.running.process.exitcode}")
        if max(_seconds(worker) - before, (time.monotonic() - began) / PATIENCE) > MOST_SECONDS:
            return failed(f"takes too long: more than {MOST_SECONDS:.0f} s")
    try:
        answer: Any = worker.pipe.recv()
    except (EOFError, OSError):
        return failed("process died: no answer")
    outcome, peak = answer
    if peak > MOST_BYTES:
        return failed(f"takes too much memory: {peak / (1 << 30):.1f} GiB [{outcome.name}]")
    return outcome


def _seconds(worker: _Worker) -> float:
    try:
        times = psutil.Process(worker.pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)
