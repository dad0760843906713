"""Says how far a study has come, takes over what other studies have finished, and estimates what the rest will take."""

import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mimicdet.engine.run_folder import RunFolder, read_metrics
from mimicdet.errors import UserError
from mimicdet.lab.study.evidence import EVIDENCE, Outcome, read_evidence, write_evidence
from mimicdet.lab.study.outcome import Data, finished_jobs, what_differs
from mimicdet.lab.study.plan import Job
from mimicdet.report.table import table


@dataclass(frozen=True)
class JobProgress:
    """Says how far a job has come."""

    job: Job
    state: str  # in words
    seconds: float | None  # its training took, where it is finished


def progress_of(jobs: Sequence[Job], out: Path, data: Data | None, *, reuse: bool) -> list[JobProgress]:
    """Says what is finished, begun and to be done, without beginning anything; UserError as ``finished_jobs``."""
    seconds = {(one.run, one.seed): one.seconds for one in finished_jobs(jobs, out, data)}
    found = []
    for job in jobs:
        if (job.run, job.seed) in seconds:
            found.append(JobProgress(job, "finished", seconds[job.run, job.seed]))
        elif reuse and (outcome := finished_beside(job, data)) is not None:
            found.append(JobProgress(job, f"finished in {outcome.place}", outcome.seconds))
        else:
            found.append(JobProgress(job, _begun(job), None))
    return found


def progress_table(found: Sequence[JobProgress], *, parallel: int) -> str:
    """Returns a line for each job, and beneath how many are left and about how long they will take.

    That is with ``parallel`` trainings at a time, as those that are finished had.
    """
    minutes = ["-" if one.seconds is None else f"{one.seconds / 60:.1f}" for one in found]
    rows = [[one.job.run, str(one.job.seed), one.state, took] for one, took in zip(found, minutes, strict=True)]
    left = [one for one in found if one.seconds is None]
    took = {one.job.run: one.seconds for one in found if one.seconds is not None}
    summary = f"{len(found) - len(left)} of {len(found)} trainings are finished"
    if left and took:
        usual = statistics.median(took.values())
        hours = sum(took.get(one.job.run, usual) for one in left) / 3600 / parallel
        summary += f"; the others will take some {hours:.1f} hours, {parallel} at a time, if as long as those"
    return f"{table(['run', 'seed', 'state', 'minutes'], rows)}\n\n{summary}"


def _begun(job: Job) -> str:
    folder = RunFolder(job.folder)
    if not folder.holds_a_run:
        return "to be trained"
    epochs = [record["epoch"] for record in read_metrics(folder.metrics_file) if record["kind"] == "train"]
    return f"begun, {epochs[-1] if epochs else 0:.1f} of {job.settings.train.epochs} epochs"


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
    UserError where it cannot be written.
    """
    if (outcome := finished_beside(job, data)) is None:
        return None
    unfinished, source = job.folder.with_name(f".{job.folder.name}"), str(outcome.place)
    unneeded = {RunFolder(outcome.place).checkpoints.name}
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(source, unfinished, ignore=lambda folder, _: unneeded if folder == source else set())
        write_evidence([outcome.model_copy(update={"run": job.run, "speed": None})], unfinished)
        unfinished.rename(job.folder)
    except (OSError, UserError) as error:  # also shutil.Error
        shutil.rmtree(unfinished, ignore_errors=True)
        raise UserError(f"{source} cannot be copied to {job.folder} ({error})") from error
    return outcome
