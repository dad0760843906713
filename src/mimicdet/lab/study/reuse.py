"""Trainings that several studies have in common are done once."""

from __future__ import annotations

import shutil
from pathlib import Path

from mimicdet.engine.run_folder import RunFolder
from mimicdet.errors import UserError
from mimicdet.lab.study.outcome import RESULT, Data, read_result, what_differs
from mimicdet.lab.study.plan import Job
from mimicdet.lab.study.speed import SPEED


def take_over(job: Job, data: Data) -> Path | None:
    """Copies what :func:`finished_beside` finds; the folder it comes from.

    Raises:
        UserError: the copy cannot be written.
    """
    if (source := finished_beside(job, data)) is not None:
        _copy(source, job.folder)
    return source


def finished_beside(job: Job, data: Data | None) -> Path | None:
    """Where another study has finished a job's very settings and seed, on the same data; ``data`` None: on whatever.

    The other study's folder must lie beside this one's. A job with teachers is never taken over, for equal settings do
    not mean equal teachers; one that has begun here goes on.
    """
    if job.settings.task == "distill" or job.folder.exists():
        return None
    study = job.folder.parent.parent
    for file in sorted(study.parent.glob(f"*/*/seed{job.seed}/{RESULT}")):
        source = file.parent
        if source.parent.parent != study and what_differs(read_result(file), job, data) is None:
            return source
    return None


def _copy(source: Path, target: Path) -> None:
    """A finished run without its checkpoints, under its name only when it is whole."""
    unfinished = target.with_name(f".{target.name}")
    unneeded = {RunFolder(source).checkpoints.name, SPEED}  # the speed is one beside others, which are not here
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(source, unfinished, ignore=lambda folder, _: unneeded if Path(folder) == source else set())
        unfinished.rename(target)
    except OSError as error:  # also shutil.Error
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UserError(f"{source} cannot be copied to {target} ({error})") from error
