"""What a run tells while it trains: metrics.jsonl, experiment trackers, a progress bar, a line an epoch."""

import math
import sys
import time
from collections.abc import Iterator
from typing import TypeVar

import torch
from accelerate import Accelerator
from tqdm import tqdm

from mimicdet.config import Settings
from mimicdet.engine.checkpoint import dotted
from mimicdet.engine.processes import on_main
from mimicdet.engine.run_folder import MetricsFile, Record, RunFolder
from mimicdet.engine.state import RunState
from mimicdet.engine.step import StepResult
from mimicdet.errors import message
from mimicdet.files import defined
from mimicdet.inference.coco_metrics import METRIC_NAMES, Metrics
from mimicdet.report.table import points

Item = TypeVar("Item")
GIB = 2**30


class Stopwatch:
    """Measures the seconds since the last record, and how many of them were spent waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begins again at 0."""
        self._began = time.perf_counter()
        self.waited = 0.0

    @property
    def elapsed(self) -> float:
        """Counts the seconds since the last restart."""
        return time.perf_counter() - self._began

    def waiting(self, items: Iterator[Item]) -> Iterator[Item]:
        """Yields the items, with the wait for each on the watch."""
        while True:
            began = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - began
            yield item


class RunLog:
    """Records and reports; every process has one and calls it alike, the first one writes. The folder is open."""

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
            config={name: str(v) if isinstance(v, list) else v for name, v in dotted(settings).items()},  # scalars
            init_kwargs={"wandb": {"name": folder.path.name, "dir": str(folder.path)}},
        )
        steps, done = settings.train.epochs * steps_per_epoch, state.progress.step
        hidden = not (accelerator.is_main_process and sys.stderr.isatty())
        self.bar = tqdm(total=steps, initial=done, desc="train", unit="step", disable=hidden)
        self._steps_recorded = state.progress.step
        self._start()

    def train_record(self, result: StepResult, *, lr: float) -> None:
        """Writes one record on the steps since the last one, of which ``result`` is the newest."""
        progress = self.state.progress
        means = self.state.means.take()
        norms = torch.stack(list(result.norms.values())).tolist()
        seconds, steps = self.watch.elapsed, max(1, progress.step - self._steps_recorded)
        record: Record = {
            "kind": "train",
            **self._position(),
            **means,
            "lr": lr,
            **dict(sorted(zip(result.norms, norms, strict=True))),
            "skipped_steps": progress.skipped_steps,
            "seconds_per_step": seconds / steps,
            "data_wait": self.watch.waited / seconds,
        }
        if self.accelerator.device.type == "cuda":
            record["peak_memory_gib"] = torch.cuda.max_memory_allocated() / GIB
            torch.cuda.reset_peak_memory_stats()
        self._write(record)
        progress.loss = defined(means.get("loss"))
        self.bar.set_postfix(loss=_number(progress.loss, ".3f"), lr=f"{lr:.2g}")
        self._start()

    def eval_record(self, metrics: Metrics, teacher: Metrics | None) -> Record:
        """Writes one record on an evaluation."""
        record: Record = {"kind": "eval", **self._position(), **metrics.to_json()}
        if teacher is not None:
            record |= {f"teacher/{name}": teacher.to_json()[name] for name in METRIC_NAMES}
        self._write(record)
        return record

    def stepped(self) -> None:
        """Moves the bar on."""
        self.bar.update(1)

    def epoch_ended(self, evaluated: Record | None) -> None:
        """Says a line for those without a bar, and for the record above it."""
        progress, epochs = self.state.progress, self.settings.train.epochs
        parts = [f"loss {_number(progress.loss, '.4g')}"]
        if evaluated is not None:
            parts += [f"AP {points(evaluated['AP'])}", f"AP50 {points(evaluated['AP50'])}"]
            if "teacher/AP" in evaluated:
                parts.append(f"T-head AP {points(evaluated['teacher/AP'])}")
        left = progress.seconds / max(1, progress.step) * (epochs * self.steps_per_epoch - progress.step)
        time = f"{_duration(progress.seconds)} so far" + (f", about {_duration(left)} to go" if left > 0 else "")
        self.say(f"epoch {progress.epoch} of {epochs}: {', '.join(parts)} ({time})")
        self._start()

    def say(self, text: str) -> None:
        """Writes a line to standard error, on the first process alone."""
        if self.accelerator.is_main_process:
            tqdm.write(message(text), file=sys.stderr)
            sys.stderr.flush()

    def close(self) -> None:
        """Removes the bar."""
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
        numbers = {key: v for key, v in record.items() if isinstance(v, int | float) and math.isfinite(v)}
        self.accelerator.log(numbers, step=self.state.progress.step)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
