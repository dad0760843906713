"""Durations of several things, measured in alternation so that a machine that slows down slows all of them."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from tqdm import tqdm


class Timing(NamedTuple):
    """Of one case over all rounds, in milliseconds."""

    samples: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    @property
    def low(self) -> float:
        """The first decile: a tenth of the rounds were faster."""
        return self._quantile(0.1)

    @property
    def high(self) -> float:
        """The last decile: a tenth of the rounds were slower."""
        return self._quantile(0.9)

    def _quantile(self, share: float) -> float:
        ordered = sorted(self.samples)
        return ordered[round(share * (len(ordered) - 1))]


def ratio(first: Timing, second: Timing) -> float:
    """``first`` over ``second``: the median of the ratios of each round, in which both ran one after the other."""
    return statistics.median(a / b for a, b in zip(first.samples, second.samples, strict=True))


def alternate(
    cases: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warmup: int = 2,
    device: torch.device | str = "cpu",
    title: str = "",
) -> dict[str, Timing]:
    """Runs every case once a round, in the given order on even rounds and in reverse on odd ones.

    Args:
        cases: by name; each does one unit of work. A GPU is waited for before and after.
        rounds: that count, at least 1.
        warmup: rounds before them.
        device: that is waited for.
        title: of the progress bar, shown on a terminal only.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    device = torch.device(device)
    samples: dict[str, list[float]] = {name: [] for name in cases}
    bar = tqdm(range(-warmup, rounds), desc=title or None, leave=False, disable=not sys.stderr.isatty())
    for number in bar:
        for name in list(cases) if number % 2 == 0 else reversed(list(cases)):
            _wait_for(device)
            start = time.perf_counter()
            cases[name]()
            _wait_for(device)
            if number >= 0:
                samples[name].append(1000 * (time.perf_counter() - start))
    return {name: Timing(tuple(values)) for name, values in samples.items()}


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
