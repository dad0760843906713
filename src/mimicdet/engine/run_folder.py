"""The folder of a run: what lies in it, when one may be written to, what --overwrite removes, and its metrics.jsonl.

::

    settings.yaml            all settings, resolved; `--config` reads it back
    metrics.jsonl            one JSON object a line, for each log interval and each evaluation
    checkpoints/last.pt      the state of training, and previous.pt the one before (engine/checkpoint.py)
    model/                   the best weights by AP on the validation split, or the last where none has an AP
    model-last/              the last weights, where model/ has the best
    curves.png, pictures/    drawn when training ends
    trackers/                files of experiment trackers

Every record in metrics.jsonl has ``kind`` ("train" or "eval"), ``step`` (optimiser steps taken) and ``epoch`` (a
fraction within it). A "train" record has the means of the task's losses and diagnostics since the one before, ``lr``,
``grad_norm`` and ``grad_norm/<module>`` of its last step, ``skipped_steps`` (so far), ``seconds`` (of training, so
far), ``seconds_per_step``, ``data_wait`` (the share of them spent waiting for images) and, on a GPU,
``peak_memory_gib``. An "eval" record has COCO's numbers, those of the T-head under ``teacher/``. What is undefined is
null.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mimicdet.config import Settings
from mimicdet.errors import UserError
from mimicdet.files import defined, replace_file, why_not_written
from mimicdet.settings_file import dump_settings

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

    @property
    def holds_a_run(self) -> bool:
        """Says whether there are settings with our header, or another thing that a run writes."""
        if not self.settings_file.is_file():
            return False
        written = self.metrics_file, self.checkpoints, self.model
        with self.settings_file.open("rb") as file:
            return file.readline() == _HEADER.encode() or any(path.exists() for path in written)

    def require_fit(self, *, resume: bool, overwrite: bool) -> None:
        """Changes nothing; may be called long before ``open``, so that nobody waits for a refusal.

        Raises:
            UserError: it holds a run and neither flag says what to do with it, or both do; there is no run to resume;
                it holds something else than a run; it may not be written to.
        """
        if resume and overwrite:
            raise UserError("--resume continues a run and --overwrite replaces it: give one of them")
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; --out needs a folder")
        if self.holds_a_run:
            if not resume and not overwrite:
                raise UserError(
                    f"{self.path} already holds a run: continue it with --resume, replace it with --overwrite, or "
                    "choose another folder"
                )
        elif resume:
            raise UserError(f"{self.path} holds no run to resume; start it without --resume")
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise UserError(f"{self.path} is not empty and holds no run; choose another folder for this one")
        there = next(path for path in (self.path, *self.path.absolute().parents) if path.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            raise UserError(f"{self.path} cannot be made, for {there} may not be written to; choose another folder")

    def open(self, *, resume: bool, overwrite: bool) -> None:
        """Makes the folder ready for a run, on one process only; UserError as ``require_fit``, or if it cannot be."""
        self.require_fit(resume=resume, overwrite=overwrite)
        try:
            if overwrite and self.holds_a_run:
                self._remove_run()
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{error.filename or self.path} cannot be written ({error.strerror})") from error

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
        """Raises UserError when the disk is full; then the line may be half there, which readers skip."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(defined(record)) + "\n")
        except OSError as error:
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
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            json.loads(line)
        except (ValueError, RecursionError):
            continue
        if line.endswith(b"\n"):
            yield line
