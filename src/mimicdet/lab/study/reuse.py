"""Trainings that several studies have in common are done once."""

from __future__ import annotations

import shutil

from mimicdet.engine.run_folder import RunFolder
from mimicdet.errors import UserError
from mimicdet.lab.study.evidence import EVIDENCE, Outcome, read_evidence, write_evidence
from mimicdet.lab.study.outcome import Data, what_differs
from mimicdet.lab.study.plan import Job


def finished_beside(job: Job, data: Data | None) -> Outcome | None:
    """Returns what a job's very settings and seed gave in another study, on the same data; ``data`` None: on any.

    The other study's folder must lie beside this one's. A job with teachers is never taken over, for equal settings do
    not mean equal teachers; one that has begun here goes on.
    """
    if job.settings.task == "distill" or job.folder.exists():
        return None
    study = job.folder.parent.parent
    for file in sorted(study.parent.glob(f"*/*/seed{job.seed}/{EVIDENCE}")):
        if study not in file.parents:
            (outcome,) = read_evidence(file.parent)
            if what_differs(outcome, job, data) is None:
                return outcome
    return None


def take_over(job: Job, data: Data) -> Outcome | None:
    """Copies what :func:`finished_beside` finds without its checkpoints, and returns it as it lies there.

    The copy has its name only when it is whole. It has no speed, which is one beside others, which are not here.

    Raises:
        UserError: the copy cannot be written.
    """
    if (outcome := finished_beside(job, data)) is None:
        return None
    unfinished, source = job.folder.with_name(f".{job.folder.name}"), str(outcome.place)
    unneeded = {RunFolder(outcome.place).checkpoints.name}
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(source, unfinished, ignore=lambda folder, _: unneeded if folder == source else set())
        own = outcome.model_copy(update={"run": job.run, "speed": None})
        write_evidence([own], unfinished)
        unfinished.rename(job.folder)
    except (OSError, UserError) as error:  # also shutil.Error
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UserError(f"{source} cannot be copied to {job.folder} ({error})") from error
    return outcome
