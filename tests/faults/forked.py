"""Processes that have everything imported before they begin, so that a trial takes a second and not ten.

A server is started once, imports, and forks from then on; it never computes, so nothing of torch is running in it.
Every process is the first of a session of its own, as a command in a terminal: what it starts can be ended with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

STARTED = "started\n"
"""The first line of a process's log."""
ROOT = Path(__file__).parents[2]
LOST = 255
"""What multiprocessing says where the server could not tell it an exit code, which happens once in thousands."""
PRELOADED = ["tests.faults.preload"]
"""Modules that import what the processes need; who exports adds ``tests.faults.preload_export`` before the first."""


def context() -> Any:
    """Returns the server's ``multiprocessing`` context; what it forks computes with one thread."""
    os.environ["OMP_NUM_THREADS"] = "1"
    chosen = multiprocessing.get_context("forkserver")
    chosen.set_forkserver_preload(PRELOADED)
    return chosen


@dataclass
class Running:
    """A process that was started, with what it says."""

    process: BaseProcess
    log: Path

    def begun(self, timeout: float = 60.0) -> None:
        """Waits until the process does what it is there for."""
        deadline = time.monotonic() + timeout
        while not (self.log.exists() and self.log.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.002)

    def send(self, number: int, *, group: bool = False) -> None:
        """Sends a signal, unless the process has ended."""
        with contextlib.suppress(ProcessLookupError):
            assert self.process.pid is not None
            (os.killpg if group else os.kill)(self.process.pid, number)

    def ends(self, timeout: float) -> int | None:
        """Returns the exit code, negative for a signal; None, and the process is killed, when time is up."""
        self.process.join(timeout)
        code = self.process.exitcode
        if code == LOST and self.code_file.exists():
            code = int(self.code_file.read_text())
        self.send(signal.SIGKILL, group=True)  # what it started and left
        self.process.join()
        return code

    @property
    def code_file(self) -> Path:
        """Where the process leaves its own word of its exit code."""
        return _code_file(self.log)

    @property
    def told(self) -> str:
        """All that the process wrote."""
        return self.log.read_text(errors="replace").removeprefix(STARTED) if self.log.exists() else ""


def start(
    work: Callable[..., int | None], *arguments: Any, log: Path, environment: Mapping[str, str] | None = None
) -> Running:
    """Starts ``work(*arguments)`` in a process; its exit code is what ``work`` returns."""
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    _code_file(log).unlink(missing_ok=True)
    process = context().Process(target=_run, args=(work, arguments, log, dict(environment or {})), daemon=False)
    process.start()
    return Running(process, log)


def _run(work: Callable[..., int | None], arguments: tuple[Any, ...], log: Path, environment: dict[str, str]) -> None:
    os.setsid()
    os.chdir(ROOT)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = open(1, "w", closefd=False, errors="backslashreplace")  # noqa: SIM115 (for the process's life)
    sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.write(1, STARTED.encode())
    code = work(*arguments) or 0
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stdout.flush()
    _code_file(log).write_text(str(code))
    sys.exit(code)


def _code_file(log: Path) -> Path:
    return log.with_suffix(".code")
