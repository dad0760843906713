"""Trains and measures the jobs of a study, each in a process of its own; what is finished stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mimicdet.data.dataset import DetectionDataset
from mimicdet.data.fingerprint import fingerprint
from mimicdet.engine.coco_metrics import coco_metrics
from mimicdet.engine.metrics_file import read_metrics
from mimicdet.engine.run_folder import RunFolder
from mimicdet.errors import UserError
from mimicdet.files import replace_file
from mimicdet.settings_file import dump_settings
from mimicdet.study.plan import Job

RESULT, DETECTIONS = "result.json", "detections.json"


@dataclass(frozen=True)
class Data:
    """What every job is trained and measured on."""

    folder: Path
    train: str
    val: str
    dataset: DetectionDataset  # the validation split

    @cached_property
    def fingerprint(self) -> str:
        """Of the splits' names and the validation split's images and objects."""
        return f"{self.train} -> {self.val}: {fingerprint(self.dataset)}"


@dataclass(frozen=True)
class Outcome:
    """What a finished job gave."""

    job: Job
    metrics: dict[str, Any]  # as ``Metrics.to_json``
    detections: list[dict[str, Any]]  # COCO results on the validation split
    seconds: float  # of training
    teacher_ap: float | None  # of the T-head at the last evaluation, where it was evaluated


def execute(jobs: Sequence[Job], data: Data, *, parallel: int) -> list[str]:
    """Runs every job that is not finished, students as soon as their teachers are.

    A job is trained with ``mimicdet train`` (continued, if it was interrupted) and its last weights are measured: the
    best ones would have been chosen on the very images that count here.

    Args:
        parallel: so many at a time; each on a GPU of its own where there are GPUs.

    Returns:
        A sentence for each that failed.
    """
    failures: list[str] = []
    seats = _Seats(parallel)
    waiting = list(jobs)
    running: dict[Future[str | None], Job] = {}
    with ThreadPoolExecutor(parallel) as pool:
        while waiting or running:
            ended = [job for job in jobs if job not in waiting and job not in running.values()]
            for job in [job for job in waiting if _teachers(job, jobs) <= {j.name for j in ended}]:
                if len(running) == parallel:  # none is queued: after an error or Ctrl-C nothing more may begin
                    break
                waiting.remove(job)
                if any(read_outcome(j, data) is None for j in jobs if j.run in job.needs):
                    failures.append(f"{job.name}: its teacher '{', '.join(job.needs)}' is not finished")
                else:
                    running[pool.submit(_finish, job, seats, data)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                failures += filter(None, [future.result()])
    return failures


def _teachers(job: Job, jobs: Sequence[Job]) -> set[str]:
    """Names of the jobs that must have ended before."""
    return {other.name for other in jobs if other.run in job.needs}


def read_outcome(job: Job, data: Data) -> Outcome | None:
    """What a job gave, if it is finished.

    Raises:
        UserError: it was finished with other settings, or on other data.
    """
    file = job.folder / RESULT
    if not file.is_file():
        return None
    result = json.loads(file.read_text(encoding="utf-8"))
    now = {"settings": _described(job), "data": data.fingerprint}
    result["settings"] = _without_folder(job, result["settings"])
    for what, value in now.items():
        if result[what] != value:
            raise UserError(
                f"{job.folder} holds '{job.name}' with other {what} than the study has now; remove the folder to train "
                "it anew, or give another --out"
            )
    detections = json.loads((job.folder / DETECTIONS).read_text(encoding="utf-8"))
    return Outcome(job, result["metrics"], detections, result["seconds"], result["teacher_ap"])


def _described(job: Job) -> str:
    """Its settings, with teachers by their place in the study's folder, which may lie anywhere."""
    return _without_folder(job, dump_settings(job.settings))


def _without_folder(job: Job, text: str) -> str:
    return text.replace(f"{job.folder.parent.parent}/", "")


class _Seats:
    """GPUs, or shares of the processor, handed out to jobs."""

    def __init__(self, number: int) -> None:
        import torch

        gpus = torch.cuda.device_count()
        self._free = list(range(number))
        self._lock = threading.Lock()
        self._gpus = gpus
        self._threads = max(1, (os.cpu_count() or 1) // number)

    def take(self) -> int:
        with self._lock:
            return self._free.pop(0)

    def give(self, seat: int) -> None:
        with self._lock:
            self._free.append(seat)

    def environment(self, seat: int) -> dict[str, str]:
        if self._gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = visible.split(",") if visible else [str(i) for i in range(self._gpus)]
            return {**os.environ, "CUDA_VISIBLE_DEVICES": names[seat % self._gpus]}
        return {**os.environ, "OMP_NUM_THREADS": str(self._threads)}


def _finish(job: Job, seats: _Seats, data: Data) -> str | None:
    """Trains and measures a job; a sentence if that failed."""
    if read_outcome(job, data) is not None:
        print(f"{job.name}: finished before", flush=True)
        return None
    seat = seats.take()
    log = job.folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    print(f"{job.name}: training, see {log}", flush=True)
    try:
        settings = job.folder.with_suffix(".yaml")
        replace_file(settings, dump_settings(job.settings).encode())
        folder = RunFolder(job.folder)
        where = ["--data", str(data.folder), "--split", data.val]
        words = ["train", str(data.folder), "--config", str(settings), "--out", str(job.folder)]
        words += ["--split", data.train, "--val", data.val]
        words += ["--resume"] if folder.holds_a_run else []
        found = job.folder / DETECTIONS
        for command in (
            words, ["predict", str(folder.last_model), *where, "--json", str(found)],
        ):  # fmt: skip
            with log.open("a") as output:
                code = subprocess.run(
                    [sys.executable, "-m", "mimicdet", *command], stdout=output, stderr=output,
                    env=seats.environment(seat),
                ).returncode  # fmt: skip
            if code:
                lines = log.read_text(errors="replace").strip().splitlines()
                return f"{job.name}: {lines[-1] if lines else f'exit code {code}'} (see {log})"
        result = _measure(job, folder, found, data)
        print(f"{job.name}: AP {100 * result['AP']:.1f} ({time.perf_counter() - began:.0f} s)", flush=True)
        return None
    finally:
        seats.give(seat)


def _measure(job: Job, folder: RunFolder, found: Path, data: Data) -> dict[str, Any]:
    metrics = coco_metrics(data.dataset.to_coco(), json.loads(found.read_text(encoding="utf-8"))).to_json()
    records = read_metrics(folder.metrics_file)
    seconds = max((r["seconds"] for r in records if r["kind"] == "train"), default=0.0)
    evaluations = [r for r in records if r["kind"] == "eval"]
    teacher = evaluations[-1].get("teacher/AP") if evaluations else None
    result = {
        "settings": _described(job), "data": data.fingerprint, "metrics": metrics, "seconds": seconds,
        "teacher_ap": teacher,
    }  # fmt: skip
    replace_file(job.folder / RESULT, json.dumps(result, indent=1).encode())
    return metrics
