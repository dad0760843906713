"""Says whether the jobs of a study are finished, and what they gave."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mimicdet.data.dataset import DetectionDataset, fingerprint
from mimicdet.engine.checkpoint import differing_settings
from mimicdet.engine.run_folder import Record, RunFolder, read_metrics
from mimicdet.errors import UserError
from mimicdet.inference.coco_metrics import coco_metrics
from mimicdet.lab.machine import machine
from mimicdet.lab.study.evidence import EVIDENCE, Metrics, Outcome, read_evidence, write_evidence
from mimicdet.lab.study.judged import judge
from mimicdet.lab.study.plan import Job
from mimicdet.settings_file import Layer, resolve

DETECTIONS = "detections.json"
_DIAGNOSTIC, _TEACHER = "diag/", "teacher/"


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
    """Returns what a job gave, if it is finished; ``data`` None: on whatever data.

    Raises:
        UserError: it was finished with other settings, or on other data.
    """
    if not (job.folder / EVIDENCE).is_file():
        return None
    (outcome,) = read_evidence(job.folder)
    return _same(outcome, job, data)


def finished_jobs(jobs: Sequence[Job], out: Path, data: Data | None) -> list[Outcome]:
    """Returns what finished jobs gave, of their folders or, where none has an outcome, of the study's evidence.

    Raises:
        UserError: a file is damaged, or a job was finished with other settings or, unless ``data`` is None, other data.
    """
    found = [outcome for job in jobs if (outcome := finished(job, data)) is not None]
    if found or not (out / EVIDENCE).is_file():
        return found
    kept = {(one.run, one.seed): one for one in read_evidence(out)}
    return [_same(kept[job.run, job.seed], job, data) for job in jobs if (job.run, job.seed) in kept]


def measure(job: Job, data: Data) -> Outcome:
    """Measures the detections of a trained job, which then is finished."""
    detections, truth = json.loads((job.folder / DETECTIONS).read_text(encoding="utf-8")), data.val_set.to_coco()
    metrics = coco_metrics(truth, detections)
    records = read_metrics(RunFolder(job.folder).metrics_file)
    evaluations = [record for record in records if record["kind"] == "eval"]
    outcome = Outcome(
        run=job.run,
        seed=job.seed,
        settings=settings_of(job),
        data=data.fingerprint,
        data_name=data.folder.name,
        metrics=Metrics(**metrics.to_json()),  # type: ignore[typeddict-item]
        seconds=max((record["seconds"] for record in records if record["kind"] == "train"), default=0.0),
        teacher_ap=evaluations[-1].get("teacher/AP") if evaluations else None,
        machine=machine(),
        diagnostics=last_diagnostics(records),
        judged=judge(truth, detections),
        place=job.folder,
    )
    write_evidence([outcome], job.folder)
    return outcome


def last_diagnostics(records: Sequence[Record]) -> dict[str, float]:
    """Returns each diagnostic's mean over the last epoch, and the T-head's numbers of the last evaluation.

    Evidence keeps them, for logs and checkpoints are large and are seldom kept.

    Args:
        records: as ``read_metrics`` gives them.

    Returns:
        By the log's names, the diagnostics' without their ``diag/``; those that are never defined are left out.
    """
    trained = [record for record in records if record["kind"] == "train"]
    last = [record for record in trained if record["epoch"] > trained[-1]["epoch"] - 1]
    names = dict.fromkeys(name for record in last for name in record if name.startswith(_DIAGNOSTIC))
    values = {name: [record[name] for record in last if record.get(name) is not None] for name in names}
    found = {name.removeprefix(_DIAGNOSTIC): statistics.fmean(seen) for name, seen in values.items() if seen}
    evaluated = [record for record in records if record["kind"] == "eval"][-1:]
    for record in evaluated:  # COCO says -1 of what is undefined
        found |= {k: v for k, v in record.items() if k.startswith(_TEACHER) and v is not None and v >= 0}
    return found


def settings_of(job: Job) -> dict[str, Any]:
    """Returns a job's settings by dotted name; a teacher by its place in the study's folder, which may lie anywhere."""
    text = job.settings.model_dump_json().replace(f"{job.folder.parent.parent}/", "")
    return dict(_dotted(json.loads(text)))


def what_differs(outcome: Outcome, job: Job, data: Data | None) -> str | None:
    """Says which data or settings an outcome has other than the job; None where it is the job's.

    Settings that it lacks had their defaults.
    """
    if data is not None and outcome.data != data.fingerprint:
        return "other data than the study has now"
    try:
        saved, now = (resolve([Layer(f"in {EVIDENCE}", values)]) for values in (outcome.settings, settings_of(job)))
    except UserError as error:  # a setting that is no more
        return f"other settings than the study has now ({error})"
    differences = differing_settings(saved, now).values()
    return f"other settings than the study has now ({'; '.join(differences)})" if differences else None


def check_agreement(outcomes: Sequence[Outcome], train: str, val: str) -> None:
    """UserError unless all outcomes are of the same data, numbered alike, and of the splits with these names."""
    first, *others = outcomes
    if other := next((o for o in others if o.data != first.data), None):
        raise UserError(
            f"{first.place} and {other.place} were finished on different data, so no table can compare them; remove "
            "one of the folders to train it anew, or give another --out"
        )
    splits = [part.rpartition(" ")[0] for part in first.data.split(" -> ")]
    if splits != [train, val]:
        raise UserError(
            f"{first.place} was trained on '{splits[0]}' and measured on '{splits[-1]}', the study names "
            f"'{train}' and '{val}'; remove the folder to train it anew, or give another --out"
        )
    if other := next((o for o in others if not first.judged.pairs_with(o.judged)), None):
        raise UserError(
            f"{first.place / EVIDENCE} and {other.place / EVIDENCE} number the images differently, so that no "
            "difference could be paired image by image; remove one of them, or its folder if it has no checkpoints, "
            "and run the study again"
        )


def _same(outcome: Outcome, job: Job, data: Data | None) -> Outcome:
    if (what := what_differs(outcome, job, data)) is not None:
        raise UserError(
            f"{outcome.place} holds '{job.name}' with {what}; remove the folder to train it anew, or give another --out"
        )
    return outcome.model_copy(update={"run": job.run, "seed": job.seed})  # a run may have another name now


def _dotted(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value
