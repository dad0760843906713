"""How fast the models of a study's runs are, side by side on one machine."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mimicdet.data.decode import read_image
from mimicdet.data.transform import resize_for_inference
from mimicdet.engine.run_folder import RunFolder
from mimicdet.errors import UserError
from mimicdet.files import replace_file
from mimicdet.lab.bench.stages import batch_detector
from mimicdet.lab.bench.timing import Timing, alternate, ratio
from mimicdet.lab.study.outcome import Data, is_finished
from mimicdet.lab.study.plan import Job
from mimicdet.predict import Detector

SPEED = "speed.json"
ROUNDS = 20
"""So many images are detected in, each by every model before the next."""


@dataclass(frozen=True)
class Speed:
    """Of one run's model, from an image of its own inference size in memory to detections."""

    milliseconds: tuple[float, ...]  # of each image
    runs: tuple[str, ...]  # that were measured in turn with it, itself among them
    device: str  # with its threads, if it is a processor

    @property
    def median(self) -> float:
        return Timing(self.milliseconds).median

    def over(self, other: Speed) -> float | None:
        """This time over that one's, by the images' median; None where they were not measured together."""
        if self.runs != other.runs or self.device != other.device:
            return None
        return ratio(Timing(self.milliseconds), Timing(other.milliseconds))


def measure_speeds(jobs: Sequence[Job], data: Data) -> str | None:
    """Measures the models of all runs that have one, of the first finished seed each, unless that was done before.

    The first images of the validation split are detected in one by one, each by every model in turn, so that a machine
    that slows down slows all of them; on a processor by one thread, which other machines have too. What it gives lies
    in the runs' folders, as ``speed.json``.

    Returns:
        Why a finished run could not be measured.
    """
    finished = _first_finished(jobs, data)
    known = [_read(job.folder / SPEED) for job in finished.values()]
    if all(speed is not None and set(speed.runs) == set(finished) for speed in known):
        return None
    for job in finished.values():
        if not RunFolder(job.folder).last_model.is_dir():
            return f"no speeds: the weights of '{job.name}' are gone; remove {job.folder} to train them anew"
    detectors = {run: Detector.from_pretrained(RunFolder(job.folder).last_model) for run, job in finished.items()}
    device = next(iter(detectors.values())).device
    images = [read_image(record.file) for record in data.val_set.images[:ROUNDS]]
    cases: dict[str, Callable[[], object]] = {}
    for run, detector in detectors.items():
        sides = detector.inference.shorter_side, detector.inference.longer_side
        cases[run] = _one_after_the_other([batch_detector(detector, [resize_for_inference(i, *sides)]) for i in images])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        timings = alternate(cases, rounds=ROUNDS, device=device, title="speed")
    finally:
        torch.set_num_threads(threads)
    for run, job in finished.items():
        speed = Speed(timings[run].samples, tuple(finished), _name(device))
        replace_file(job.folder / SPEED, json.dumps(asdict(speed), indent=1).encode())
    return None


def read_speeds(jobs: Sequence[Job]) -> Mapping[str, Speed]:
    """By run; UserError where a file is damaged."""
    speeds: dict[str, Speed] = {}
    for job in jobs:
        if job.run not in speeds and (speed := _read(job.folder / SPEED)) is not None:
            speeds[job.run] = speed
    return speeds


def _first_finished(jobs: Sequence[Job], data: Data) -> dict[str, Job]:
    """By run, in the order of the jobs."""
    first: dict[str, Job] = {}
    for job in jobs:
        if job.run not in first and is_finished(job, data):
            first[job.run] = job
    return first


def _one_after_the_other(units: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """Does the next of them at each call, and begins again after the last."""
    turn = itertools.cycle(units)
    return lambda: next(turn)()


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return "1 CPU thread"


def _read(file: Path) -> Speed | None:
    if not file.is_file():
        return None
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        return Speed(tuple(map(float, found["milliseconds"])), tuple(found["runs"]), str(found["device"]))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); remove it and run its study again") from error
