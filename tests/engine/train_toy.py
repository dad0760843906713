"""Trains the toy in processes of its own: ``python -m tests.engine.train_toy`` or by torchrun. See test_resume."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from mimicdet.data.batch import Batch
from mimicdet.engine.step import Stepper, StepResult
from mimicdet.engine.stop import TrainingStopped
from mimicdet.engine.train import train
from mimicdet.tasks.mimic import MimicTask
from mimicdet.tasks.task import WholeStep
from tests.engine.toy import toy_data, toy_settings

EMPTY = (0, 1, 2, 3, 4, 6, 7, 9)
"""Images without objects: with two processes, most batches of each have none."""
POISON = 106
"""The loss of a batch with this image is NaN, thus on one process of several."""


def train_toy(out: Path, *, resume: bool = False, workers: int = 0, signal_at: int = 0, number: int = 0) -> None:
    """A run with everything that could differ when resumed; its process gets a signal before a step, if asked to."""
    steps = 0
    step, forward = Stepper.__call__, MimicTask.forward

    def signal_and_step(*args: Any, **kwargs: Any) -> StepResult:
        nonlocal steps
        steps += 1
        if steps == signal_at:
            os.kill(os.getpid(), number)
        return step(*args, **kwargs)

    def poisoned_forward(task: MimicTask, batch: Batch, *whole: WholeStep) -> dict[str, Tensor]:
        losses = forward(task, batch, *whole)
        return losses | {"loss": losses["loss"] * (float("nan") if POISON in batch.image_ids else 1)}

    settings = toy_settings()
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"workers": workers})})
    data = toy_data(out.parent / "images", empty=EMPTY)
    with (
        patch.object(Stepper, "__call__", signal_and_step),
        patch.object(MimicTask, "forward", poisoned_forward),
        patch("mimicdet.engine.evaluate.draw_curves", lambda *_: None),  # it takes longer than all the rest
    ):
        train(settings=settings, train_data=data, val_data=data, out=out, resume=resume)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, one after the other; with a + to resume")
    parser.add_argument("--kill-at", type=int, default=0, help="the process kills itself before this step")
    parser.add_argument("--workers", type=int, default=0, help="of the loader")
    parser.add_argument("--stop", type=Path, help="one more run, which only the second process is asked to stop")
    options = parser.parse_args()
    if len(options.runs) > 1:
        torch.distributed.init_process_group("gloo")  # one group for all runs
    for run in options.runs:
        train_toy(
            run.with_name(run.name.removesuffix("+")),
            resume=run.name.endswith("+"),
            workers=options.workers,
            signal_at=options.kill_at,
            number=signal.SIGKILL,
        )
    if options.stop is not None:
        with pytest.raises(TrainingStopped):
            train_toy(options.stop, signal_at=2 if os.environ["RANK"] == "1" else 0, number=signal.SIGTERM)


if __name__ == "__main__":
    main()
