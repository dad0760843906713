"""What is measured between two log records: means over all steps and processes, and where the time went."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor

Item = TypeVar("Item")


class IntervalMeans:
    """Means of named numbers over the steps since the last log record, and over all processes.

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
        """The means, after which new ones begin; every process must call it. NaN where there was no value."""
        sums, counts = self._over_all_processes().tolist() if self.names else ([], [])
        self._totals.zero_()
        return {
            name: total / count if count else float("nan")
            for name, total, count in zip(self.names, sums, counts, strict=True)
        }

    def state_dict(self) -> dict[str, Any]:
        """What the mean so far is made of, over all processes; every process must call it."""
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


class Stopwatch:
    """Seconds since the last record, and how many of them were spent waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._began = time.perf_counter()
        self.waited = 0.0

    @property
    def elapsed(self) -> float:
        return time.perf_counter() - self._began

    def waiting(self, items: Iterator[Item]) -> Iterator[Item]:
        """The items, with the wait for each on the watch."""
        while True:
            began = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - began
            yield item
