"""A long training and many predictions: memory, threads and open files stay where they were after the start."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import psutil

from tests.faults.forked import start
from tests.faults.table import Line
from tests.faults.works import Inputs, last_line

STEPS, PREDICTIONS = 2000, 5000
SAMPLES = 80
MOST_GROWTH = 32 << 20
"""Bytes of memory between the second quarter of the time and the last."""

Sample = tuple[int, int, int]


def sample() -> Sample:
    """Returns this process's memory in bytes, its threads and its open files."""
    process = psutil.Process()
    return process.memory_info().rss, process.num_threads(), process.num_fds()


def _train(inputs: Inputs, out: Path, samples_file: Path, steps: int) -> int:
    from mimicdet import load_dataset
    from mimicdet.engine.step import Stepper
    from mimicdet.engine.train import train
    from tests.fakes.toy import toy_settings

    samples: list[Sample] = []
    done, step = 0, Stepper.__call__

    def sampled(*arguments: Any, **named: Any) -> Any:
        nonlocal done
        if done % max(1, steps // SAMPLES) == 0:
            samples.append(sample())
        done += 1
        return step(*arguments, **named)

    data = load_dataset(inputs.cells, "train")
    epochs = max(2, steps // len(data))
    often = {"epochs": epochs, "checkpoint_every": 50, "eval_every": max(1, epochs // 10), "log_every": 10}
    settings = toy_settings(optim={"accumulate": 1}, **often)
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"workers": 1})})
    with patch.object(Stepper, "__call__", sampled):
        train(settings=settings, train_data=data, val_data=load_dataset(inputs.cells, "valid"), out=out)
    samples_file.write_text(json.dumps({"samples": samples, "done": done}))
    return 0


def _predict(inputs: Inputs, samples_file: Path, predictions: int) -> int:
    from mimicdet import Detector

    detector = Detector.from_pretrained(inputs.model, "cpu")
    files = sorted((inputs.cells / "train").iterdir())
    rng = np.random.default_rng(0)
    samples = []
    for n in range(predictions):
        if n % max(1, predictions // SAMPLES) == 0:
            samples.append(sample())
        image: Any = files[n % len(files)]
        if n % 3 == 0:  # sizes differ, as photographs do
            image = rng.integers(0, 255, (*rng.integers(40, 160, 2), 3), dtype=np.uint8)
        detector(image)
    samples_file.write_text(json.dumps({"samples": samples, "done": predictions}))
    return 0


def growth(samples: list[Sample]) -> tuple[int, int, int]:
    """Returns the growth of memory (in the mean), threads and files (at most) from the second quarter to the last."""
    quarter = max(1, len(samples) // 4)
    early, late = np.array(samples[quarter : 2 * quarter] or samples), np.array(samples[-quarter:])
    memory = int(late[:, 0].mean() - early[:, 0].mean())
    return memory, *(int(late[:, k].max() - early[:, k].max()) for k in (1, 2))  # type: ignore[return-value]


def soak(inputs: Inputs, place: Path, *, share: float) -> Iterator[Line]:
    """Yields a line for the training and one for the predictions."""
    steps, predictions = max(40, round(STEPS * share)), max(80, round(PREDICTIONS * share))
    file = place / "samples.json"
    works = [
        (f"{steps:,} steps of training", _train, (inputs, place / "soak", file, steps)),
        (f"{predictions:,} predictions", _predict, (inputs, file, predictions)),
    ]
    for name, work, arguments in works:
        line, began = Line(name, tried=1), time.perf_counter()
        running = start(work, *arguments, log=place / "soak.log")
        code = running.ends(3600)
        if code != 0:
            line.failures.append(f"exit code {code}: {last_line(running.told)}")
        else:
            memory, threads, files = growth(json.loads(file.read_text())["samples"])
            line.note = f"memory {memory / (1 << 20):+.0f} MiB, threads {threads:+d}, files {files:+d}"
            line.right = int(memory <= MOST_GROWTH and threads <= 0 and files <= 0)
            if not line.right:
                line.failures.append(f"grows: {line.note}")
        line.seconds = time.perf_counter() - began
        yield line
