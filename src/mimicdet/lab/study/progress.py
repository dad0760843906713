"""How far a study has come, and about how long the rest will take."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mimicdet.engine.metrics_file import read_metrics
from mimicdet.engine.run_folder import RunFolder
from mimicdet.lab.study.outcome import RESULT, Data, finished_result, read_result
from mimicdet.lab.study.plan import Job
from mimicdet.lab.study.reuse import finished_beside
from mimicdet.report.table import table


@dataclass(frozen=True)
class Progress:
    """Of one job."""

    job: Job
    state: str  # in words
    seconds: float | None  # its training took, where it is finished


def progress_of(jobs: Sequence[Job], data: Data | None, *, reuse: bool) -> list[Progress]:
    """What is finished, begun and to be done, without beginning anything; UserError as ``is_finished``."""
    return [_progress(job, data, reuse) for job in jobs]


def progress_table(found: Sequence[Progress], *, parallel: int) -> str:
    """A line for each job, and beneath how many are left and about how long they will take.

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


def _progress(job: Job, data: Data | None, reuse: bool) -> Progress:
    if (result := finished_result(job, data)) is not None:
        return Progress(job, "finished", result["seconds"])
    if reuse and (source := finished_beside(job, data)) is not None:
        return Progress(job, f"finished in {source}", read_result(source / RESULT)["seconds"])
    return Progress(job, _begun(job) or "to be trained", None)


def _begun(job: Job) -> str | None:
    folder = RunFolder(job.folder)
    if not folder.holds_a_run:
        return None
    epochs = [record["epoch"] for record in read_metrics(folder.metrics_file) if record["kind"] == "train"]
    return f"begun, {epochs[-1] if epochs else 0:.1f} of {job.settings.train.epochs} epochs"


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.1f}"
