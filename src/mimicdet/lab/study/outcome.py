"""What a finished job of a study left in its folder."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mimicdet.data.dataset import DetectionDataset, fingerprint
from mimicdet.engine.checkpoint import differing_settings
from mimicdet.engine.metrics_file import read_metrics
from mimicdet.engine.run_folder import RunFolder
from mimicdet.errors import UserError
from mimicdet.files import replace_file
from mimicdet.inference.coco_metrics import coco_metrics
from mimicdet.lab.machine import cpu_name
from mimicdet.lab.study.diagnostics import last_diagnostics
from mimicdet.lab.study.judged import Judged, judge
from mimicdet.lab.study.plan import Job
from mimicdet.settings_file import dump_settings, parse_settings, shown

RESULT, DETECTIONS, JUDGED = "result.json", "detections.json", "judged.npz"

_KINDS: dict[str, tuple[type, ...]] = {
    "settings": (str,), "data": (str,), "metrics": (dict,), "seconds": (int, float),
    "teacher_ap": (int, float, type(None)), "machine": (str,),
}  # fmt: skip
"""What a ``result.json`` holds, besides ``diagnostics`` if its version kept them."""
_METRICS = ("AP", "AP50", "AP75")
"""Those of its metrics that a table shows."""


@dataclass(frozen=True)
class Data:
    """What every job is trained and measured on."""

    folder: Path
    train: str
    val: str
    train_set: DetectionDataset
    val_set: DetectionDataset

    @cached_property
    def fingerprint(self) -> str:
        """Of both splits' names, images and objects."""
        return f"{self.train} {fingerprint(self.train_set)} -> {self.val} {fingerprint(self.val_set)}"


@dataclass(frozen=True)
class Outcome:
    """What a finished job gave."""

    job: Job
    metrics: dict[str, Any]  # as ``Metrics.to_json``
    judged: Judged  # its detections on the validation split
    seconds: float  # of training
    teacher_ap: float | None  # of the T-head at the last evaluation, where it was evaluated
    machine: str  # that measured it
    data: str  # fingerprint of what it was trained and measured on
    diagnostics: dict[str, float] = field(default_factory=dict)  # as ``last_diagnostics``; empty of an older version's


def is_finished(job: Job, data: Data | None) -> bool:
    """Whether a job has an outcome; data and UserError as :func:`read_outcome`."""
    return finished_result(job, data) is not None


def finished_result(job: Job, data: Data | None) -> dict[str, Any] | None:
    """A finished job's ``result.json`` alone; data and UserError as :func:`read_outcome`."""
    file = job.folder / RESULT
    if not file.is_file():
        return None
    result = read_result(file)
    if (what := what_differs(result, job, data)) is not None:
        raise UserError(
            f"{job.folder} holds '{job.name}' with {what}; remove the folder to train it anew, or give another --out"
        )
    return result


def read_outcome(job: Job, data: Data | None) -> Outcome | None:
    """What a job gave, if it is finished; ``data`` None: on whatever data.

    Raises:
        UserError: it was finished with other settings, or on other data.
    """
    result = finished_result(job, data)
    if result is None:
        return None
    judged = Judged.load(job.folder / JUDGED)
    seconds, teacher_ap, machine = result["seconds"], result["teacher_ap"], result["machine"]
    diagnostics = result.get("diagnostics", {})
    return Outcome(job, result["metrics"], judged, seconds, teacher_ap, machine, result["data"], diagnostics)


def write_outcome(job: Job, data: Data) -> dict[str, Any]:
    """Measures the detections of a trained job, which then is finished; its metrics."""
    found, truth = json.loads((job.folder / DETECTIONS).read_text(encoding="utf-8")), data.val_set.to_coco()
    metrics = coco_metrics(truth, found).to_json()
    judge(truth, found).save(job.folder / JUDGED)
    records = read_metrics(RunFolder(job.folder).metrics_file)
    seconds = max((r["seconds"] for r in records if r["kind"] == "train"), default=0.0)
    evaluations = [r for r in records if r["kind"] == "eval"]
    teacher = evaluations[-1].get("teacher/AP") if evaluations else None
    outcome = {"metrics": metrics, "seconds": seconds, "teacher_ap": teacher, "machine": _machine()}
    result = {**conditions(job, data), **outcome, "diagnostics": last_diagnostics(records)}
    replace_file(job.folder / RESULT, json.dumps(result, indent=1).encode())
    return metrics


def conditions(job: Job, data: Data) -> dict[str, str]:
    """What an outcome depends on; teachers by their place in the study's folder, which may lie anywhere."""
    return {"settings": _settings(job), "data": data.fingerprint}


def check_agreement(outcomes: Sequence[Outcome], train: str, val: str) -> None:
    """UserError unless all outcomes are of the same data, numbered alike, and of the splits with these names."""
    first, *others = outcomes
    if other := next((o for o in others if o.data != first.data), None):
        raise UserError(
            f"{first.job.folder} and {other.job.folder} were finished on different data, so no table can compare them; "
            "remove one of the folders to train it anew, or give another --out"
        )
    splits = [part.rpartition(" ")[0] for part in first.data.split(" -> ")]
    if splits != [train, val]:
        raise UserError(
            f"{first.job.folder} was trained on '{splits[0]}' and measured on '{splits[-1]}', the study names "
            f"'{train}' and '{val}'; remove the folder to train it anew, or give another --out"
        )
    if other := next((o for o in others if not first.judged.pairs_with(o.judged)), None):
        raise UserError(
            f"{first.job.folder / JUDGED} and {other.job.folder / JUDGED} number the images differently, so that no "
            "difference could be paired image by image; remove result.json beside one of them, or its folder if it has "
            "no checkpoints, and run the study again"
        )


def read_result(file: Path) -> dict[str, Any]:
    """A ``result.json``; UserError where it is damaged."""
    try:
        return _checked(json.loads(file.read_text(encoding="utf-8")))
    except ValueError as error:
        raise UserError(
            f"{file} is damaged ({error}); remove it, or its folder if that has no checkpoints, and run its study again"
        ) from error


def what_differs(result: Mapping[str, Any], job: Job, data: Data | None) -> str | None:
    """``other data than ...`` or ``other settings than ... (which)``, where a result is not of the job's.

    Settings that it lacks had their defaults.
    """
    if data is not None and result["data"] != data.fingerprint:
        return "other data than the study has now"
    try:
        saved = parse_settings(_without_folder(job, result["settings"]), RESULT)
    except UserError as error:  # a setting that is no more
        return f"other settings than the study has now ({error})"
    differences = differing_settings(saved, parse_settings(_settings(job), RESULT)).values()
    return f"other settings than the study has now ({'; '.join(differences)})" if differences else None


def _checked(result: Any) -> dict[str, Any]:
    """What a ``result.json`` holds; ValueError saying which part is missing or of a wrong kind."""
    if not isinstance(result, dict):
        raise ValueError("it holds no 'key: value' pairs")
    for key, kinds in _KINDS.items():
        if key not in result:
            raise ValueError(f"it has no '{key}'")
        if not isinstance(result[key], kinds):
            raise ValueError(f"its '{key}' is {shown(result[key])}")
    diagnostics = result.get("diagnostics", {})
    if not isinstance(diagnostics, dict) or not all(isinstance(v, int | float) for v in diagnostics.values()):
        raise ValueError("its 'diagnostics' are not numbers by name")
    for name in _METRICS:
        if not isinstance(result["metrics"].get(name), (int, float)):
            raise ValueError(f"its 'metrics' have no number '{name}'")
    return result


def _machine() -> str:
    """Device, Python and libraries; of a CPU also the instructions that PyTorch uses, which decide what it rounds."""
    names = ", ".join(f"{name} {version(name)}" for name in ("mimicdet", "torch", "torchvision", "timm"))
    kind = ", ".join(filter(None, [cpu_name(), torch.backends.cpu.get_cpu_capability()]))
    device = f"{os.cpu_count()} CPU cores ({kind})"
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    return f"{device}, Python {platform.python_version()}, {names}"


def _settings(job: Job) -> str:
    return _without_folder(job, dump_settings(job.settings))


def _without_folder(job: Job, text: str) -> str:
    return text.replace(f"{job.folder.parent.parent}/", "")
