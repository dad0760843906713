"""When the jobs of a study run: each as soon as its teachers have ended. Whole studies: see tests/commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mimicdet.config import MimicDetSettings
from mimicdet.engine.stop import TrainingStopped
from mimicdet.errors import UserError
from mimicdet.lab.study import execute as module
from mimicdet.lab.study.execute import execute
from mimicdet.lab.study.plan import Job


def job(run: str, seed: int = 0, *needs: str) -> Job:
    return Job(run, seed, Path(run) / str(seed), MimicDetSettings(), needs)


class Trainings:
    """In place of trainings: notes what runs when, and lets some fail or wait for others."""

    def __init__(self, fails: tuple[str, ...] = (), waits: dict[str, str] | None = None) -> None:
        self.fails, self.waits = fails, waits or {}
        self.log: list[str] = []
        self.started: dict[str, threading.Event] = {}
        self.finished: set[str] = set()
        self.most = self.now = 0
        self.lock = threading.Lock()

    def event(self, name: str) -> threading.Event:
        with self.lock:
            return self.started.setdefault(name, threading.Event())

    def finish(self, job: Job, seats: Any, data: Any, reuse: bool) -> str | None:
        with self.lock:
            self.log.append(job.name)
            self.now += 1
            self.most = max(self.most, self.now)
        self.event(job.name).set()
        if job.name in self.waits:
            assert self.event(self.waits[job.name]).wait(20), f"{job.name} ended before {self.waits[job.name]} began"
        with self.lock:
            self.now -= 1
        if job.name in self.fails:
            return f"{job.name}: failed"
        self.finished.add(job.name)
        return None


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Any:
    def with_trainings(trainings: Trainings, jobs: list[Job], parallel: int) -> list[str]:
        monkeypatch.setattr(module, "_finish", trainings.finish)
        monkeypatch.setattr(module, "finished", lambda j, data: j if j.name in trainings.finished else None)
        return execute(jobs, None, parallel=parallel, reuse=True)  # type: ignore[arg-type]

    return with_trainings


def test_a_student_does_not_wait_for_others_teachers(run: Any) -> None:
    """The long training ends only after the student has begun."""
    trainings = Trainings(waits={"long, seed 0": "student, seed 0"})
    jobs = [job("long"), job("teacher"), job("student", 0, "teacher")]
    assert not run(trainings, jobs, 2)
    assert trainings.finished == {j.name for j in jobs}
    assert trainings.most == 2


def test_a_student_waits_for_every_seed_of_its_teacher(run: Any) -> None:
    trainings = Trainings()
    run(trainings, [job("teacher", 0), job("teacher", 1), job("student", 0, "teacher"), job("alone")], 3)
    assert trainings.log.index("student, seed 0") > max(trainings.log.index(f"teacher, seed {s}") for s in (0, 1))


@pytest.mark.parametrize(("own", "expected"), [(None, str(max(1, (os.cpu_count() or 1) // 2))), ("3", "3")])
def test_the_cores_are_shared_unless_the_user_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str | None, expected: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if own:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    real = subprocess.Popen
    child = [sys.executable, "-c", "import os; print(os.environ['OMP_NUM_THREADS'])"]
    monkeypatch.setattr("subprocess.Popen", lambda words, **options: real(child, **options))

    def finish(job: Job, seats: Any, data: Any, reuse: bool) -> None:
        with (tmp_path / "log").open("w") as log:
            seats.run(seats.free.get(), ["train"], log)

    monkeypatch.setattr(module, "_finish", finish)
    execute([job("alone")], None, parallel=2, reuse=True)  # type: ignore[arg-type]
    assert (tmp_path / "log").read_text().strip() == expected


@pytest.mark.parametrize(
    ("visible", "expected"),
    [(None, ["0", "1", "0"]), ("3,5", ["3", "5", "3"]), ("GPU-a,GPU-b", ["GPU-a", "GPU-b", "GPU-a"])],
)
def test_each_training_has_a_gpu_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, visible: str | None, expected: list[str]
) -> None:
    """Of those that this process may use; a third training beside two GPUs shares the first."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    given: list[str] = []
    real = subprocess.Popen

    def start(_: Any, *, env: dict[str, str], **options: Any) -> Any:
        given.append(env["CUDA_VISIBLE_DEVICES"])
        return real([sys.executable, "-c", ""], **options)

    monkeypatch.setattr("subprocess.Popen", start)
    seats = module._Seats(3)
    with (tmp_path / "log").open("w") as log:
        for seat in [seats.free.get() for _ in range(3)]:
            assert seats.run(seat, ["train"], log) == 0
    assert given == expected


def test_a_failed_teacher_has_no_students(run: Any) -> None:
    trainings = Trainings(fails=("teacher, seed 0",))
    jobs = [job("teacher"), job("student", 0, "teacher"), job("its student", 0, "student"), job("alone")]
    assert run(trainings, jobs, 2) == [
        "teacher, seed 0: failed",
        "student, seed 0: its teacher 'teacher' is not finished",
        "its student, seed 0: its teacher 'student' is not finished",
    ]
    assert sorted(trainings.log) == ["alone, seed 0", "teacher, seed 0"]


def test_what_was_finished_otherwise_is_told_before_anything_is_trained(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = Trainings()

    def finished(job: Job, data: Any) -> None:
        if job.run == "last":
            raise UserError("last holds other settings")

    monkeypatch.setattr(module, "_finish", trainings.finish)
    monkeypatch.setattr(module, "finished", finished)
    with pytest.raises(UserError, match="last holds other settings"):
        execute([job("first"), job("last")], None, parallel=1, reuse=True)  # type: ignore[arg-type]
    assert trainings.log == []


@pytest.mark.parametrize("parallel", [1, 2])
def test_after_an_error_nothing_more_begins(run: Any, parallel: int) -> None:
    class Broken(Trainings):
        def finish(self, job: Job, seats: Any, data: Any, reuse: bool) -> str | None:
            super().finish(job, seats, data, reuse)
            raise UserError("a folder with other settings")

    trainings = Broken()
    with pytest.raises(UserError, match="other settings"):
        run(trainings, [job(name) for name in "abcdef"], parallel)
    assert len(trainings.log) <= parallel


# Signals, with commands in processes of their own

CHILD = """
import signal, sys, time
def end(number, frame):
    print("ends", flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, end)
print("begins", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_commands_and_begins_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once each, though it comes twice, and they are waited for."""
    real = subprocess.Popen
    child = [sys.executable, "-c", CHILD]
    monkeypatch.setattr("subprocess.Popen", lambda words, **options: real(child, **options))
    monkeypatch.setattr("mimicdet.engine.stop.ONE_REQUEST_S", 60.0)  # a busy machine may take its time between the two
    logs = [tmp_path / f"{name}.log" for name in "abc"]

    def finish(job: Job, seats: Any, data: Any, reuse: bool) -> str:
        with (tmp_path / f"{job.run}.log").open("w") as log:
            return f"{job.run}: {seats.run(seats.free.get(), ['train'], log)}"

    def signal_when_both_run() -> None:
        while not all(log.exists() and log.read_text() for log in logs[:2]):
            time.sleep(0.02)
        for _ in range(2):
            os.kill(os.getpid(), number)

    monkeypatch.setattr(module, "_finish", finish)
    thread = threading.Thread(target=signal_when_both_run)
    thread.start()
    before = time.monotonic()
    with pytest.raises(TrainingStopped):
        execute([job(name) for name in "abc"], None, parallel=2, reuse=True)  # type: ignore[arg-type]
    assert time.monotonic() - before < 30
    thread.join()
    assert [log.read_text() for log in logs[:2]] == ["begins\nends\n"] * 2
    assert not logs[2].exists()
    assert "the same command goes on" in capsys.readouterr().err
