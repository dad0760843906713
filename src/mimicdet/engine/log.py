"""What a run tells while it trains: metrics.jsonl, experiment trackers, a progress bar, a line an epoch."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from tqdm import tqdm

from mimicdet.config import Settings
from mimicdet.engine.interval import Stopwatch
from mimicdet.engine.metrics_file import MetricsFile, Record
from mimicdet.engine.processes import on_main
from mimicdet.engine.run_folder import RunFolder
from mimicdet.engine.state import RunState
from mimicdet.engine.step import StepResult
from mimicdet.inference.coco_metrics import METRIC_NAMES, Metrics

GIB = 2**30


class RunLog:
    """Records and reports; every process has one and calls it alike, the first one writes.

    Args:
        folder: of the run; open.
        state: of the run; its counters say which step a record is of.
        steps_per_epoch: optimiser steps.
    """

    def __init__(
        self, *, accelerator: Accelerator, settings: Settings, folder: RunFolder, state: RunState, steps_per_epoch: int
    ) -> None:
        self.accelerator = accelerator
        self.settings = settings
        self.state = state
        self.steps_per_epoch = steps_per_epoch
        self.watch = Stopwatch()
        self.file = MetricsFile(folder.metrics_file)
        on_main(accelerator, lambda: self.file.keep_first(state.progress.records))
        accelerator.init_trackers(
            "mimicdet",
            config=_flat(settings.model_dump(mode="json")),
            init_kwargs={"wandb": {"name": folder.path.name, "dir": str(folder.path)}},
        )
        self.interactive = accelerator.is_main_process and sys.stderr.isatty()
        self.bar = tqdm(
            total=settings.train.epochs * steps_per_epoch, initial=state.progress.step, desc="train", unit="step",
            disable=not self.interactive,
        )  # fmt: skip
        self._steps_recorded = state.progress.step
        self._loss = float("nan")
        self._start()

    def train_record(self, result: StepResult, *, lr: float) -> None:
        """One record on the steps since the last one, of which ``result`` is the newest."""
        progress = self.state.progress
        means = self.state.means.take()
        names = list(result.norms)
        norms = torch.stack([result.norms[name] for name in names]).tolist()
        seconds, steps = self.watch.elapsed, max(1, progress.step - self._steps_recorded)
        record: Record = {
            "kind": "train",
            **self._position(),
            **means,
            "lr": lr,
            **dict(sorted(zip(names, norms, strict=True))),
            "skipped_steps": progress.skipped_steps,
            "seconds_per_step": seconds / steps,
            "data_wait": self.watch.waited / seconds,
        }
        if self.accelerator.device.type == "cuda":
            record["peak_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
            torch.cuda.reset_peak_memory_stats()
        self._write(record)
        self._loss = means.get("loss", float("nan"))
        self.bar.set_postfix(loss=f"{self._loss:.3f}", lr=f"{lr:.2g}")
        self._start()

    def eval_record(self, metrics: Metrics, teacher: Metrics | None) -> Record:
        """One record on an evaluation."""
        record: Record = {"kind": "eval", **self._position(), **metrics.to_json()}
        if teacher is not None:
            record |= {f"teacher/{name}": teacher[name] for name in METRIC_NAMES}
        self._write(record)
        return record

    def stepped(self) -> None:
        """Moves the bar on."""
        self.bar.update(1)

    def epoch_ended(self, evaluated: Record | None) -> None:
        """A line for those without a bar, and for the record above it."""
        progress, epochs = self.state.progress, self.settings.train.epochs
        parts = [f"loss {self._loss:.4g}"]
        if evaluated is not None:
            parts += [f"AP {evaluated['AP']:.3f}", f"AP50 {evaluated['AP50']:.3f}"]
            if "teacher/AP" in evaluated:
                parts.append(f"T-head AP {evaluated['teacher/AP']:.3f}")
        left = progress.seconds / max(1, progress.step) * (epochs * self.steps_per_epoch - progress.step)
        time = f"{_duration(progress.seconds)} so far" + (f", about {_duration(left)} to go" if left > 0 else "")
        self.say(f"epoch {progress.epoch} of {epochs}: {', '.join(parts)} ({time})")
        self._start()

    def say(self, text: str) -> None:
        """A line on standard error, of the first process alone."""
        if self.accelerator.is_main_process:
            tqdm.write(text, file=sys.stderr)
            sys.stderr.flush()

    def close(self) -> None:
        self.bar.close()

    def _start(self) -> None:
        """Starts the watch anew, so that evaluations and checkpoints count for no step."""
        self.watch.restart()
        self._steps_recorded = self.state.progress.step

    def _position(self) -> Record:
        progress = self.state.progress
        epoch = progress.epoch + progress.batch / (self.settings.optim.accumulate * self.steps_per_epoch)
        return {"step": progress.step, "epoch": round(epoch, 6), "seconds": round(progress.seconds, 3)}

    def _write(self, record: Record) -> None:
        on_main(self.accelerator, lambda: self.file.append(record))
        self.state.progress.records += 1
        numbers = {
            key: value for key, value in record.items() if isinstance(value, int | float) and math.isfinite(value)
        }
        self.accelerator.log(numbers, step=self.state.progress.step)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names and scalars, as trackers want them."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = str(value) if isinstance(value, list) else value
    return flat


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
