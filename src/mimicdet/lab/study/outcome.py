"""Says whether the jobs of a study are finished, here or elsewhere, what they gave, and how far others have come."""

import json
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mimicdet.data.dataset import DetectionDataset, fingerprint
from mimicdet.engine.checkpoint import differing_settings
from mimicdet.engine.run_folder import Record, RunFolder, read_metrics
from mimicdet.errors import UserError
from mimicdet.files import make_folder, set_aside
from mimicdet.inference.coco_metrics import coco_metrics
from mimicdet.lab.bench import machine
from mimicdet.lab.study.evidence import EVIDENCE, MetricNumbers, Outcome, read_evidence, write_evidence
from mimicdet.lab.study.judged import judge
from mimicdet.lab.study.plan import Job
from mimicdet.report.table import table
from mimicdet.settings_file import Layer, resolve

DETECTIONS = "detections.json"
_ANEW = "to train it anew, or give another --out"


@dataclass(frozen=True)
class Data:
    """Names the data that every job is trained and measured on."""

    folder: Path
    train: str
    val: str
    train_set: DetectionDataset
    val_set: DetectionDataset

    @cached_property
    def fingerprint(self) -> str:
        """Names both splits, their images and their objects."""
        return f"{self.train} {fingerprint(self.train_set)} -> {self.val} {fingerprint(self.val_set)}"


def finished(job: Job, data: Data | None) -> Outcome | None:
    """Returns what a job gave, if it is finished; UserError if it was with other settings or (unless None) data."""
    return _same(read_evidence(job.folder)[0], job, data) if (job.folder / EVIDENCE).is_file() else None


def finished_jobs(jobs: Sequence[Job], out: Path, data: Data | None) -> list[Outcome]:
    """Returns what finished jobs gave, of their folders or, where none has an outcome, of the study's evidence.

    UserError where a file is damaged, or a job was finished with other settings or (unless ``data`` is None) data.
    """
    found = [outcome for job in jobs if (outcome := finished(job, data)) is not None]
    if found or not (out / EVIDENCE).is_file():
        return found
    kept = {(one.run, one.seed): one for one in read_evidence(out)}
    return [_same(kept[job.run, job.seed], job, data) for job in jobs if (job.run, job.seed) in kept]


def measure(job: Job, data: Data) -> Outcome:
    """Measures the detections of a trained job, which then is finished."""
    detections, truth = json.loads((job.folder / DETECTIONS).read_text(encoding="utf-8")), data.val_set.to_coco()
    records = read_metrics(RunFolder(job.folder).metrics_file)
    names: dict[str, Any] = {"run": job.run, "seed": job.seed, "data": data.fingerprint, "data_name": data.folder.name}
    outcome = Outcome(
        **names,
        settings=settings_of(job),
        metrics=MetricNumbers(**coco_metrics(truth, detections).to_json()),  # type: ignore[typeddict-item]
        seconds=max((record["seconds"] for record in records if record["kind"] == "train"), default=0.0),
        teacher_ap=_last_evaluation(records).get("teacher/AP"),
        machine=machine(),
        diagnostics=last_diagnostics(records),
        judged=judge(truth, detections),
        place=job.folder,
    )
    write_evidence([outcome], job.folder)
    return outcome


def last_diagnostics(records: Sequence[Record]) -> dict[str, float]:
    """Returns each diagnostic's mean over the last epoch, and the T-head's numbers of the last evaluation.

    Evidence keeps them, for logs and checkpoints are large and are seldom kept. They have the log's names, diagnostics
    without their ``diag/``; those that are never defined are left out.
    """
    trained = [record for record in records if record["kind"] == "train"]
    last = [record for record in trained if record["epoch"] > trained[-1]["epoch"] - 1]
    names = dict.fromkeys(name for record in last for name in record if name.startswith("diag/"))
    values = {name: [record[name] for record in last if record.get(name) is not None] for name in names}
    found = {name.removeprefix("diag/"): statistics.fmean(seen) for name, seen in values.items() if seen}
    evaluated = _last_evaluation(records).items()  # COCO says -1 of what is undefined
    return found | {k: v for k, v in evaluated if k.startswith("teacher/") and v is not None and v >= 0}


def _last_evaluation(records: Sequence[Record]) -> Record:
    return next((record for record in reversed(records) if record["kind"] == "eval"), {})


def settings_of(job: Job) -> dict[str, Any]:
    """Returns a job's settings by dotted name; a teacher by its place in the study's folder, which may lie anywhere."""
    found: dict[str, Any] = {}
    for name, value in json.loads(job.settings.model_dump_json().replace(f"{job.folder.parent.parent}/", "")).items():
        found |= {f"{name}.{key}": one for key, one in value.items()} if isinstance(value, dict) else {name: value}
    return found


def what_differs(outcome: Outcome, job: Job, data: Data | None) -> str | None:
    """Says which data or settings an outcome has other than the job; settings that it lacks had their defaults."""
    if data is not None and outcome.data != data.fingerprint:
        return "other data than the study has now"
    try:
        saved, now = (resolve([Layer(f"in {EVIDENCE}", values)]) for values in (outcome.settings, settings_of(job)))
    except UserError as error:  # a setting that is no more
        return f"other settings than the study has now ({error})"
    differences = differing_settings(saved, now).values()
    return f"other settings than the study has now ({'; '.join(differences)})" if differences else None


def check_agreement(outcomes: Sequence[Outcome], train: str, val: str) -> None:
    """Raises UserError unless all outcomes are of the same data, numbered alike, and of the splits with these names."""
    first, *others = outcomes
    if other := next((o for o in others if o.data != first.data), None):
        why = f"were finished on different data, so no table can compare them; remove one of the folders {_ANEW}"
        raise UserError(f"{first.place} and {other.place} {why}")
    splits = [part.rpartition(" ")[0] for part in first.data.split(" -> ")]
    if splits != [train, val]:
        was = f"{first.place} was trained on '{splits[0]}' and measured on '{splits[-1]}'"
        raise UserError(f"{was}, the study names '{train}' and '{val}'; remove the folder {_ANEW}")
    if other := next((o for o in others if not first.judged.pairs_with(o.judged)), None):
        why = "number the images differently, so that no difference could be paired image by image"
        way_out = "remove one of them, or its folder if it has no checkpoints, and run the study again"
        raise UserError(f"{first.place / EVIDENCE} and {other.place / EVIDENCE} {why}; {way_out}")


def _same(outcome: Outcome, job: Job, data: Data | None) -> Outcome:
    if (what := what_differs(outcome, job, data)) is not None:
        raise UserError(f"{outcome.place} holds '{job.name}' with {what}; remove the folder {_ANEW}")
    return outcome.model_copy(update={"run": job.run, "seed": job.seed})  # a run may have another name now


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
    run, source = RunFolder(outcome.place), str(outcome.place)
    unneeded = {run.checkpoints.name, run.lock_file.name}
    try:
        make_folder(job.folder.parent)
        with set_aside(job.folder.parent) as unfinished:
            shutil.copytree(source, unfinished, ignore=lambda folder, _: unneeded if folder == source else set())
            write_evidence([outcome.model_copy(update={"run": job.run, "speed": None})], unfinished)
            unfinished.rename(job.folder)
    except (OSError, UserError) as error:  # also shutil.Error
        raise UserError(f"{source} cannot be copied to {job.folder} ({error})") from error
    return outcome
