"""What a run consists of while it trains: the task, the optimiser, the average and the counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.optim.swa_utils import AveragedModel

from mimicdet.engine.interval import IntervalMeans
from mimicdet.engine.step import StepResult
from mimicdet.errors import UserError
from mimicdet.tasks import Task


@dataclass
class Progress:
    """The counters of a run."""

    epoch: int = 0
    """Epochs finished, evaluation included."""
    batch: int = 0
    """Batches of the epoch under way that each process has trained on; a whole number of steps."""
    step: int = 0
    """Optimiser steps, the skipped ones included."""
    bad_steps: int = 0
    """Steps in a row, up to now, that were skipped because loss or gradient was not finite."""
    skipped_steps: int = 0
    """All steps that were skipped, fp16's overflows included."""
    seconds: float = 0.0
    """Time spent training, evaluations and earlier parts of a resumed run included."""
    records: int = 0
    """Records in metrics.jsonl."""
    best: dict[str, Any] | None = None
    """The evaluation record with the highest AP, whose weights are in model/."""
    last: dict[str, Any] | None = None
    """The last evaluation record."""

    def count(self, result: StepResult, *, batches: int) -> None:
        """Counts a step on ``batches`` batches of each process."""
        self.batch += batches
        self.step += 1
        self.skipped_steps += not result.taken
        self.bad_steps = self.bad_steps + 1 if result.bad else 0


@dataclass
class RunState:
    """Everything that a checkpoint holds, live."""

    accelerator: Accelerator
    task: Task
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    means: IntervalMeans
    progress: Progress = field(default_factory=Progress)

    @property
    def shipped_task(self) -> Task:
        """The task with the weights that are evaluated and shipped: the moving average where there is one."""
        return self.task if self.average is None else self.average.module  # type: ignore[return-value]

    def learn_from(self, result: StepResult) -> None:
        """After a step that was taken."""
        self.means.add(result.names, result.values)
        if self.average is not None:
            self.average.update_parameters(self.task)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors; every process must call it."""
        scaler = self.accelerator.scaler
        return {
            "task": self.task.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "means": self.means.state_dict(),
            "progress": asdict(self.progress),
        }

    def load_state_dict(self, state: Mapping[str, Any], file: Path) -> None:
        """Continues from ``state_dict()``, read from ``file``; UserError when it is of another model."""
        try:
            self.task.load_state_dict(state["task"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{file} is the checkpoint of another model: {_first_line(error)}; start again with --overwrite"
            ) from error
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.means.load_state_dict(state["means"])
        self.progress = Progress(**state["progress"])


def _first_line(error: Exception) -> str:
    """torch lists every key that does not fit, one kind a line below a headline; the first such line says enough."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[1] if len(lines) > 1 else lines[0]
    return line if len(line) <= 200 else line[:200] + " ..."
