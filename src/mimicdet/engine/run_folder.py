"""The folder of a run: what lies in it, when one may be written to, and what --overwrite removes.

::

    settings.yaml            all settings, resolved; `--config` reads it back
    metrics.jsonl            one record a log interval and one an evaluation (engine/metrics_file.py)
    checkpoints/last.pt      the state of training, and previous.pt the one before (engine/checkpoint.py)
    model/                   the best weights by AP on the validation split, or the last where there is none
    model-last/              the last weights, where model/ has the best
    curves.png, pictures/    drawn when training ends
    trackers/                files of experiment trackers
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from mimicdet.config import Settings
from mimicdet.errors import UserError
from mimicdet.files import replace_file
from mimicdet.settings_file import dump_settings

_HEADER = "# The settings of this run. Start another with them: mimicdet train DATA --out FOLDER --config THIS_FILE\n"


@dataclass(frozen=True)
class RunFolder:
    """Paths of a run."""

    path: Path

    @property
    def settings_file(self) -> Path:
        return self.path / "settings.yaml"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def last_model(self) -> Path:
        return self.path / "model-last"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    @property
    def trackers(self) -> Path:
        return self.path / "trackers"

    @property
    def holds_a_run(self) -> bool:
        """Settings with our header, or with one of the other things a run writes; any YAML file alone is no run."""
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
        """Makes the folder ready for a run; on one process only.

        Raises:
            UserError: as ``require_fit``; the folder cannot be made.
        """
        self.require_fit(resume=resume, overwrite=overwrite)
        try:
            if overwrite and self.holds_a_run:
                self._remove_run()
            self.checkpoints.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{error.filename or self.path} cannot be written ({error.strerror})") from error

    def write_settings(self, settings: Settings) -> None:
        replace_file(self.settings_file, (_HEADER + dump_settings(settings)).encode())

    def _remove_run(self) -> None:
        """Removes what a run wrote and nothing else; the settings last, so that the rest is still seen to be a run."""
        for path in (
            self.checkpoints, self.metrics_file, self.curves, self.pictures, self.trackers, self.last_model, self.model,
            self.settings_file,
        ):  # fmt: skip
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
