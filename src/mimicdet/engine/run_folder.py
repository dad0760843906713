"""The folder of a run: what lies in it, when one may be written to, what --overwrite removes, and its metrics.jsonl.

::

    settings.yaml            all settings, resolved; `--config` reads it back
    metrics.jsonl            one JSON object a line, for each log interval and each evaluation
    checkpoints/last.pt      the state of training, and previous.pt the one before (engine/checkpoint.py)
    model/                   the best weights by AP on the validation split, or the last where none has an AP
    model-last/              the last weights, where model/ has the best
    curves.png, pictures/    drawn when training ends
    trackers/                files of experiment trackers
    .mimicdet.lock           there while a process has the folder, or was killed with it; it says which

Every record in metrics.jsonl has ``kind`` ("train" or "eval"), ``step`` (optimiser steps taken) and ``epoch`` (a
fraction within it). A "train" record has the means of the task's losses and diagnostics since the one before, ``lr``,
``grad_norm`` and ``grad_norm/<module>`` of its last step, ``skipped_steps`` (so far), ``seconds`` (of training, so
far), ``seconds_per_step``, ``data_wait`` (the share of them spent waiting for images) and, on a GPU,
``peak_memory_gib``. An "eval" record has COCO's numbers, those of the T-head under ``teacher/``. What is undefined is
null.
"""

import contextlib
import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mimicdet.config import Settings
from mimicdet.errors import UserError
from mimicdet.files import (
    defined,
    is_leftover,
    remove_leftovers,
    replace_file,
    require_text,
    require_unbroken,
    why_not_written,
)
from mimicdet.locks import Lock, holder, take_lock
from mimicdet.settings_file import dump_settings
from mimicdet.streams import require_plain

Record = dict[str, Any]

_HEADER = "# The settings of this run. Start another with them: mimicdet train DATA --out FOLDER --config THIS_FILE\n"


class RunFolder:
    """Names the paths of a run, none of which need exist, and guards them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings_file = path / "settings.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.last_model = path / "model-last"
        self.curves = path / "curves.png"
        self.pictures = path / "pictures"
        self.trackers = path / "trackers"
        self.lock_file = path / ".mimicdet.lock"
        self._lock: Lock | None = None

    @property
    def holds_a_run(self) -> bool:
        """Says whether there are settings with our header, or another thing that a run writes."""
        if not self.settings_file.is_file():
            return False
        written = self.metrics_file, self.checkpoints, self.model
        with self.settings_file.open("rb") as file:
            return file.readline() == _HEADER.encode() or any(path.exists() for path in written)

    def require_fit(self, *, resume: bool, overwrite: bool) -> None:
        """Changes nothing of a run; may be called long before ``open``, so that nobody waits for a refusal.

        Raises:
            UserError: it holds a run and neither flag says what to do with it, or both do; there is no run to resume;
                it holds something else than a run; it may not be written to; another process has it.
        """
        if resume and overwrite:
            raise UserError("--resume continues a run and --overwrite replaces it: give one of them")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; --out needs a folder")
        require_text(self.path)
        require_unbroken(self.path)
        if resume:
            require_plain(self.settings_file, self.metrics_file)
        if self._lock is None and os.path.lexists(self.lock_file):
            self._take().release()
        if self.holds_a_run:
            if not resume and not overwrite:
                raise UserError(
                    f"{self.path} already holds a run: continue it with --resume, replace it with --overwrite, or "
                    "choose another folder"
                )
        elif resume:
            raise UserError(f"{self.path} holds no run to resume; start it without --resume")
        elif self.path.is_dir() and not all(map(self._is_trace, self.path.iterdir())):
            raise UserError(f"{self.path} is not empty and holds no run; choose another folder for this one")
        there = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"{self.path} cannot be made, for {there} may not be written to; choose another folder")

    def reserve(self, *, resume: bool, overwrite: bool) -> None:
        """Keeps other processes out of the run that is in the folder, if there is one, until ``close``.

        Only one process of a run may call it. UserError as ``require_fit``.
        """
        self.require_fit(resume=resume, overwrite=overwrite)
        if self.holds_a_run and self._lock is None:
            self._lock = self._take()

    def open(self, *, resume: bool, overwrite: bool) -> None:
        """Makes the folder ready for a run, and keeps other processes out of it until ``close``.

        Only one process of a run may call it. UserError as ``require_fit``, or if it cannot be made.
        """
        self.require_fit(resume=resume, overwrite=overwrite)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._lock or self._take()
            self.require_fit(resume=resume, overwrite=overwrite)  # again, for now nobody else changes it
            if overwrite and self.holds_a_run:
                self._remove_run()
            for folder in (self.path, self.checkpoints, self.model, self.last_model, self.pictures):
                remove_leftovers(folder)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise UserError(f"{error.filename or self.path} cannot be written ({error.strerror})") from error

    def close(self) -> None:
        """Lets other processes have the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _take(self) -> Lock:
        """Takes the folder's lock; tries it more than once, for another process may be looking whether it is taken."""
        try:
            for _ in range(3):
                if (lock := take_lock(self.lock_file)) is not None:
                    lock.sign()
                    return lock
                time.sleep(0.03)
        except OSError as error:
            way_out = "remove it" if error.errno == errno.EEXIST else "mend that"
            raise UserError(
                f"{self.lock_file} cannot be written ({why_not_written(error)}); {way_out}, or choose another folder"
            ) from error
        raise UserError(
            f"{self.path} is in use by {holder(self.lock_file)}; wait until that has ended, or choose another folder"
        )

    def _is_trace(self, path: Path) -> bool:
        """Tells whether a process that was killed before it wrote the settings may have left something."""
        if path == self.checkpoints:
            return path.is_dir() and all(is_leftover(one.name) for one in path.iterdir())
        return path == self.lock_file or is_leftover(path.name)

    def write_settings(self, settings: Settings) -> None:
        """Writes settings.yaml."""
        replace_file(self.settings_file, (_HEADER + dump_settings(settings)).encode())

    def _remove_run(self) -> None:
        """Removes what a run wrote and nothing else; the settings last, so that the rest is still seen to be a run."""
        shown = self.curves, self.pictures, self.trackers
        for path in (self.checkpoints, self.metrics_file, *shown, self.last_model, self.model, self.settings_file):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


class MetricsFile:
    """Writes metrics.jsonl while training goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Record) -> None:
        """Raises UserError when the disk is full; then the file is as it was before.

        A crash may leave half a line, which readers skip.
        """
        length = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(defined(record)) + "\n")
        except OSError as error:
            with contextlib.suppress(OSError):
                os.truncate(self.path, length)
            raise UserError(
                f"{self.path} cannot be written: {why_not_written(error)} (the last checkpoint is intact); "
                "free some space and continue with --resume"
            ) from error

    def keep_first(self, records: int) -> None:
        """Cuts off what comes after the first ``records``: what the run wrote after its last checkpoint.

        In one piece: a crash leaves the old file or the new one.
        """
        kept = list(_complete_lines(self.path))[:records] if self.path.exists() else []
        replace_file(self.path, b"".join(kept))


def read_metrics(path: Path) -> list[Record]:
    """Reads the records of a metrics.jsonl, also of a run that goes on or has crashed in mid-line."""
    return [json.loads(line) for line in _complete_lines(path)]


def _complete_lines(path: Path) -> Iterator[bytes]:
    require_plain(path)
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            continue
        if line.endswith(b"\n"):
            yield line
