"""Trains and measures the jobs of a study, each in a process of its own, and times their models side by side."""

import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from itertools import cycle
from typing import IO

import numpy as np
import torch

from mimicdet.data.dataset import DetectionDataset
from mimicdet.data.decode import read_image
from mimicdet.data.transform import resize_for_inference
from mimicdet.engine.run_folder import RunFolder
from mimicdet.engine.stop import TrainingStopped, stop_on_signals
from mimicdet.errors import message
from mimicdet.files import remove_leftovers, replace_file
from mimicdet.lab.bench import alternate, batch_detector
from mimicdet.lab.study.evidence import Outcome, Speed, write_evidence
from mimicdet.lab.study.outcome import DETECTIONS, Data, finished, measure, take_over
from mimicdet.lab.study.plan import Job
from mimicdet.predict import Detector
from mimicdet.report.table import points
from mimicdet.settings_file import dump_settings
from mimicdet.streams import require_plain


class _Seats:
    """Seats are GPUs, or shares of the processor, handed out to jobs; commands run there."""

    def __init__(self, number: int) -> None:
        self.free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for seat in range(number):
            self.free.put(seat)
        self._gpus = torch.cuda.device_count()
        self._threads = max(1, (os.cpu_count() or 1) // number)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def run(self, seat: int, words: Sequence[str], output: IO[str]) -> int:
        """Runs a command of ours and returns its exit code."""
        with self._lock:
            if self._stopped:
                return 130  # as of a command that a signal ended
            command = [sys.executable, "-m", "mimicdet", *words]
            process = subprocess.Popen(command, stdout=output, stderr=output, env=self._environment(seat))
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._running.remove(process)

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Tells the commands to end too, on a signal inside; whoever started them waits for them."""
        try:
            yield
        except TrainingStopped:
            with self._lock:
                told, self._stopped = self._stopped, True
                for process in () if told else self._running:
                    process.terminate()
            if not told:
                what = "the trainings under way write their checkpoints and end; the same command goes on"
                print(f"\n{what}", file=sys.stderr)
            raise

    def _environment(self, seat: int) -> dict[str, str]:
        if not self._gpus:
            return {"OMP_NUM_THREADS": str(self._threads), **os.environ}  # a user's own choice goes before ours
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = visible.split(",") if visible else [str(i) for i in range(self._gpus)]
        return {**os.environ, "CUDA_VISIBLE_DEVICES": names[seat % self._gpus]}


def execute(jobs: Sequence[Job], data: Data, *, parallel: int, reuse: bool) -> list[str]:
    """Runs every job that is not finished, students as soon as their teachers are.

    A job is trained with ``mimicdet train`` (continued, if it was interrupted) and its last weights are measured: the
    best ones would have been chosen on the very images that count here.

    So many run in ``parallel``, each on a GPU of its own where there are GPUs. With ``reuse``, what other studies have
    finished is taken over. For each that failed a sentence is returned.

    Raises:
        UserError: a finished job had other settings or data; before anything is trained.
        TrainingStopped: after SIGINT or SIGTERM, when the trainings under way have written their checkpoints.
    """
    for job in jobs:
        for folder in (job.folder, job.folder.parent):
            remove_leftovers(folder)
        finished(job, data)
    failures: list[str] = []
    waiting, seats = list(jobs), _Seats(parallel)
    running: dict[Future[str | None], Job] = {}
    with (
        stop_on_signals() as stop,
        seats.stopping(),  # a signal while the pool waits for the last ones, after an error
        stop.at_once(),
        ThreadPoolExecutor(parallel) as pool,
        seats.stopping(),  # before the pool waits
    ):
        while waiting or running:
            ended = {job.name for job in jobs if job not in waiting and job not in running.values()}
            for job in list(waiting):
                if not {other.name for other in jobs if other.run in job.needs} <= ended:
                    continue
                if len(running) == parallel:  # none is queued: after an error or a signal nothing more may begin
                    break
                waiting.remove(job)
                if any(finished(other, data) is None for other in jobs if other.run in job.needs):
                    failures.append(f"{job.name}: its teacher '{', '.join(job.needs)}' is not finished")
                else:
                    running[pool.submit(_finish, job, seats, data, reuse)] = job
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                del running[future]
                failures += filter(None, [future.result()])
    return failures


def _finish(job: Job, seats: _Seats, data: Data, reuse: bool) -> str | None:
    """Trains and measures a job; returns a sentence if that failed."""

    def say(text: str) -> None:  # a line in one piece, for several threads write
        print(message(f"{job.name}: {text}") + "\n", end="", flush=True)

    if finished(job, data) is not None:
        say("finished before")
        return None
    if reuse and (outcome := take_over(job, data)) is not None:
        say(f"finished in {outcome.place}, taken over")
        return None
    seat = seats.free.get()
    log = job.folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    require_plain(log)
    began = time.perf_counter()
    say(f"training, see {log}")
    try:
        for command in _commands(job, data):
            with log.open("a") as output:
                code = seats.run(seat, command, output)
            if code:
                lines = log.read_text(errors="replace").strip().splitlines()
                return f"{job.name}: {lines[-1] if lines else f'exit code {code}'} (see {log})"
        outcome = measure(job, data)
        say(f"AP {points(outcome.metrics['AP'])} ({time.perf_counter() - began:.0f} s)")
        return None
    finally:
        seats.free.put(seat)


def _commands(job: Job, data: Data) -> Iterator[list[str]]:
    """Yields the words of the commands that train a job and detect with its last weights, each as it is due."""
    settings = job.folder.with_suffix(".yaml")
    replace_file(settings, dump_settings(job.settings).encode())
    folder = RunFolder(job.folder)
    words = ["train", str(data.folder), "--config", str(settings), "--out", str(job.folder)]
    words += ["--split", data.train, "--val", data.val]
    yield words + (["--resume"] if folder.holds_a_run else [])
    words = ["predict", str(folder.last_model), "--data", str(data.folder), "--split", data.val]
    words += ["--max_faulty_boxes", str(job.settings.data.max_faulty_boxes)]
    words += ["--voc_one_based"] if job.settings.data.voc_one_based else []
    yield [*words, "--json", str(job.folder / DETECTIONS)]


ROUNDS = 20
"""Every model detects in so many images, each in turn with the others."""


def measure_speeds(outcomes: Sequence[Outcome], data: DetectionDataset) -> str | None:
    """Measures the models of all runs, of the first finished seed each, unless that was done; or says why it cannot.

    The first images of the validation split are detected in one by one, each by every model in turn, so that a machine
    that slows down slows all of them; on a processor by one thread, which other machines have too. The times go into
    the runs' evidence, which the outcomes were read from.
    """
    first = {one.run: one for one in reversed(outcomes)}
    if all(one.speed is not None and set(one.speed.runs) == set(first) for one in first.values()):
        return None
    for run, one in first.items():
        if not RunFolder(one.place).last_model.is_dir():
            return f"no speeds: the weights of '{run}, seed {one.seed}' are gone; remove {one.place} to train them anew"
    detectors = {run: Detector.from_pretrained(RunFolder(one.place).last_model) for run, one in first.items()}
    device = next(iter(detectors.values())).device
    images = [read_image(record.file) for record in data.images[:ROUNDS]]
    cases = {run: _in_turn(detector, images) for run, detector in detectors.items()}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        timings = alternate(cases, rounds=ROUNDS, device=device, title="speed")
    finally:
        torch.set_num_threads(threads)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "1 CPU thread"
    for run, one in first.items():
        speed = Speed(milliseconds=list(timings[run].samples), runs=list(first), device=name)
        write_evidence([one.model_copy(update={"speed": speed})], one.place)
    return None


def _in_turn(detector: Detector, images: Sequence[np.ndarray]) -> Callable[[], object]:
    """Returns a unit of work that detects in the next image at each call."""
    sides = detector.inference.shorter_side, detector.inference.longer_side
    units = cycle([batch_detector(detector, [resize_for_inference(image, *sides)]) for image in images])
    return lambda: next(units)()
