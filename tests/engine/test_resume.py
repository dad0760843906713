"""Stopped and resumed equals never stopped, bit by bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from mimicdet.engine.run_folder import read_metrics
from mimicdet.engine.stop import TrainingStopped
from tests.engine.toy import toy_data
from tests.engine.train_toy import EMPTY, train_toy

ROOT = Path(__file__).parents[2]
TIMES = {"seconds", "seconds_per_step", "data_wait"}


def start_toy(*arguments: str | Path, processes: int = 0) -> subprocess.Popen[str]:
    """``python -m tests.engine.train_toy``, alone or by torchrun with ``processes``."""
    toy_data(Path(arguments[0]).parent / "images", empty=EMPTY)  # here, before several processes want to write it
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return subprocess.Popen(
        [sys.executable, *(torchrun if processes else []), "-m", "tests.engine.train_toy", *map(str, arguments)],
        cwd=ROOT,
        # As many threads as the runs of this process that it is compared with: their number changes the sums' last bits
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )


def progress(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["progress"]
    return found


def checkpoint(run: Path) -> dict[str, Any]:
    """The last checkpoint without what may differ."""
    state: dict[str, Any] = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    state["settings"]["data"].pop("workers")
    for record in (state["progress"], state["progress"]["best"], state["progress"]["last"]):
        if record is not None:
            record.pop("seconds")
    return state


def assert_identical(a: Any, b: Any, *, tolerance: float = 0, where: str = "") -> None:
    assert type(a) is type(b), where
    if isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_identical(a[key], b[key], tolerance=tolerance, where=f"{where}/{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_identical(x, y, tolerance=tolerance, where=f"{where}/{i}")
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype, where
        assert torch.equal(a, b), where
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=tolerance, abs=0), where
    else:
        assert a == b, where


def assert_same_run(resumed: Path, straight: Path) -> None:
    """The same weights, optimiser, average, models, and metrics but for times."""
    assert_identical(checkpoint(resumed), checkpoint(straight))
    for model in ("model", "model-last"):
        weights = [(run / model / "model.safetensors").read_bytes() for run in (resumed, straight)]
        assert weights[0] == weights[1], model
    logs = [
        [
            {key: value for key, value in record.items() if key not in TIMES}
            for record in read_metrics(run / "metrics.jsonl")
        ]
        for run in (resumed, straight)
    ]
    # A checkpoint adds up the processes' shares of a mean so far: the same but for the rounding of float64
    assert_identical(logs[0], logs[1], tolerance=1e-12)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nothing interrupts: two epochs of five steps."""
    run = tmp_path_factory.mktemp("straight") / "run"
    train_toy(run)
    assert progress(run)["skipped_steps"] == 2
    return run


def test_one_process_killed_in_mid_epoch(tmp_path: Path, straight: Path) -> None:
    """Killed before the eighth step, after the checkpoint of the sixth; resumed with a worker where it had none."""
    run = tmp_path / "run"
    process = start_toy(run, "--kill-at", "8")
    told, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, told
    before = progress(run)
    assert (before["epoch"], before["batch"], before["step"]) == (1, 2, 6)
    train_toy(run, resume=True, workers=1)
    assert_same_run(run, straight)


def test_two_processes_killed_in_mid_epoch(tmp_path: Path) -> None:
    """Three steps an epoch, most batches without objects, one an epoch with a loss that is NaN on one process.

    In the end a run that one of the two processes is asked to stop: both do.
    """
    killed, straight = tmp_path / "killed", tmp_path / "straight"
    start_toy(killed, "--kill-at", "6", processes=2).communicate(timeout=300)
    before = progress(killed)
    assert (before["epoch"], before["batch"], before["step"]) == (1, 2, 4)
    process = start_toy(straight, tmp_path / "killed+", "--stop", tmp_path / "stopped", processes=2)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    assert_same_run(killed, straight)
    assert progress(straight)["skipped_steps"] >= 2
    assert "stopped after step" in told
    assert progress(tmp_path / "stopped")["step"] in (2, 3)


def test_a_signal_stops_after_the_step_with_a_checkpoint(
    tmp_path: Path, straight: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The signal comes in the third step, and is noticed at the end of the fourth or before."""
    run = tmp_path / "run"
    with pytest.raises(TrainingStopped, match=r"step [34].*--resume"):
        train_toy(run, signal_at=3, number=signal.SIGTERM)
    assert "--resume goes on from there" in capfd.readouterr().err
    assert progress(run)["step"] in (3, 4)
    train_toy(run, resume=True)
    assert_same_run(run, straight)


def test_workers_do_not_die_of_the_signal_that_training_stops_on(tmp_path: Path) -> None:
    """Ctrl-C and torchrun signal the whole group, while training still needs the batches that are under way."""
    run = tmp_path / "run"
    process = start_toy(run, "--workers", "1")
    metrics = run / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    told, _ = process.communicate(timeout=120)
    assert "--resume goes on from there" in told
    assert (run / "checkpoints" / "last.pt").exists()
