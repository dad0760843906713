"""Says how far a study has come, and about how long the rest will take."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mimicdet.engine.run_folder import RunFolder, read_metrics
from mimicdet.lab.study.outcome import Data, finished_jobs
from mimicdet.lab.study.plan import Job
from mimicdet.lab.study.reuse import finished_beside
from mimicdet.report.table import table


@dataclass(frozen=True)
class Progress:
    """Says how far a job has come."""

    job: Job
    state: str  # in words
    seconds: float | None  # its training took, where it is finished


def progress_of(jobs: Sequence[Job], out: Path, data: Data | None, *, reuse: bool) -> list[Progress]:
    """Says what is finished, begun and to be done, without beginning anything; UserError as ``finished_jobs``."""
    seconds = {(one.run, one.seed): one.seconds for one in finished_jobs(jobs, out, data)}
    found = []
    for job in jobs:
        if (job.run, job.seed) in seconds:
            found.append(Progress(job, "finished", seconds[job.run, job.seed]))
        elif reuse and (outcome := finished_beside(job, data)) is not None:
            found.append(Progress(job, f"finished in {outcome.place}", outcome.seconds))
        else:
            found.append(Progress(job, _begun(job) or "to be trained", None))
    return found


def progress_table(found: Sequence[Progress], *, parallel: int) -> str:
    """Returns a line for each job, and beneath how many are left and about how long they will take.

    Args:
        parallel: so many trainings at a time, as those that are finished had.
    """
    rows = [[one.job.run, str(one.job.seed), one.state, _minutes(one.seconds)] for one in found]
    left = [one for one in found if one.seconds is None]
    took = {one.job.run: one.seconds for one in found if one.seconds is not None}
    summary = f"{len(found) - len(left)} of {len(found)} trainings are finished"
    if left and took:
        usual = statistics.median(took.values())
        hours = sum(took.get(one.job.run, usual) for one in left) / 3600 / parallel
        summary += f"; the others will take some {hours:.1f} hours, {parallel} at a time, if as long as those"
    return f"{table(['run', 'seed', 'state', 'minutes'], rows)}\n\n{summary}"


def _begun(job: Job) -> str | None:
    folder = RunFolder(job.folder)
    if not folder.holds_a_run:
        return None
    epochs = [record["epoch"] for record in read_metrics(folder.metrics_file) if record["kind"] == "train"]
    return f"begun, {epochs[-1] if epochs else 0:.1f} of {job.settings.train.epochs} epochs"


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.1f}"
