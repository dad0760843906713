"""What a run consists of while it trains: the task, the optimiser, the average, the means and the counters."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from mimicdet.engine.step import StepResult
from mimicdet.errors import UserError
from mimicdet.tasks import Task


@dataclass
class Progress:
    """Counts what a run has done."""

    epoch: int = 0  # epochs finished, evaluation included
    batch: int = 0  # batches of the epoch under way that each process has trained on; a whole number of steps
    step: int = 0  # optimiser steps, the skipped ones included
    bad_steps: int = 0  # steps in a row, up to now, that were skipped because loss or gradient was not finite
    skipped_steps: int = 0  # all steps that were skipped, fp16's overflows included
    seconds: float = 0.0  # time spent training, evaluations and earlier parts of a resumed run included
    records: int = 0  # records in metrics.jsonl
    best: dict[str, Any] | None = None  # the last evaluation record with the highest AP, whose weights are in model/
    last: dict[str, Any] | None = None  # the last evaluation record
    loss: float | None = None  # of the last train record; None where no step in it was taken

    def count(self, result: StepResult, *, batches: int) -> None:
        """Counts a step on ``batches`` batches of each process."""
        self.batch += batches
        self.step += 1
        self.skipped_steps += not result.taken
        self.bad_steps = self.bad_steps + 1 if result.bad else 0


class IntervalMeans:
    """Averages named numbers over the steps since the last log record, and over all processes.

    Sums stay on the device until a record is due. A value that is not finite (a diagnostic of objects that a batch
    does not have) is left out of its mean. Names must be the same at every step and on every process.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.names: tuple[str, ...] = ()
        self._totals = torch.zeros(2, 0)  # sums and counts of each name

    def add(self, names: Sequence[str], values: Tensor) -> None:
        """Adds one step's values (names,)."""
        if not self.names:
            self.names = tuple(names)
            dtype = torch.float32 if values.device.type == "mps" else torch.float64
            self._totals = torch.zeros(2, len(self.names), dtype=dtype, device=values.device)
        if tuple(names) != self.names:
            raise ValueError(f"a task must return the same names at every step: {self.names}, then {tuple(names)}")
        finite = torch.isfinite(values)
        self._totals += torch.stack([values.where(finite, 0), finite])

    def take(self) -> dict[str, float]:
        """Returns the means, NaN where there was no value, and begins new ones; every process must call it."""
        sums, counts = self._over_all_processes().tolist() if self.names else ([], [])
        self._totals.zero_()
        means = (total / count if count else float("nan") for total, count in zip(sums, counts, strict=True))
        return dict(zip(self.names, means, strict=True))

    def state_dict(self) -> dict[str, Any]:
        """Returns the mean's sums and counts so far, over all processes; every process must call it."""
        return {"names": list(self.names), "totals": self._over_all_processes().clone().cpu() if self.names else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues a mean; the first process takes over what all had added."""
        self.names = tuple(state["names"])
        if self.names:
            self._totals = state["totals"].clone().to(self.accelerator.device)
            if not self.accelerator.is_main_process:
                self._totals = torch.zeros_like(self._totals)

    def _over_all_processes(self) -> Tensor:
        if self.accelerator.num_processes == 1:
            return self._totals
        total: Tensor = self.accelerator.reduce(self._totals, reduction="sum")
        return total


@dataclass
class RunState:
    """Holds everything that a checkpoint holds, live."""

    accelerator: Accelerator
    task: Task
    optimizer: torch.optim.Optimizer
    average: AveragedModel | None
    means: IntervalMeans
    progress: Progress = field(default_factory=Progress)

    @property
    def shipped_task(self) -> Task:
        """Returns the task with the weights that are evaluated and shipped: the moving average where there is one."""
        return self.task if self.average is None else self.average.module  # type: ignore[return-value]

    def learn_from(self, result: StepResult) -> None:
        """Takes over a step that was taken into the means and the average."""
        self.means.add(result.names, result.values)
        if self.average is not None:
            self.average.update_parameters(self.task)

    def state_dict(self) -> dict[str, Any]:
        """Returns plain values and tensors; every process must call it."""
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
        """Continues from ``state_dict()``, read from ``file``; raises UserError when it is of another model."""
        try:
            self.task.load_state_dict(state["task"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.average is not None:
                self.average.load_state_dict(state["average"])
            if self.accelerator.scaler is not None and state["scaler"] is not None:
                self.accelerator.scaler.load_state_dict(state["scaler"])
            self.means.load_state_dict(state["means"])
            self.progress = Progress(**state["progress"])
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f"{file} is the checkpoint of another model: {_first_line(error)}; start again with --overwrite"
            ) from error


def _first_line(error: Exception) -> str:
    """torch lists every key that does not fit, one kind a line below a headline; the first such line says enough."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[1] if len(lines) > 1 else [*lines, type(error).__name__][0]
    return line if len(line) <= 200 else line[:200] + " ..."
