"""Means over an interval against numpy's, and the watch."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from mimicdet.engine.log import Stopwatch
from mimicdet.engine.processes import accelerated
from mimicdet.engine.state import IntervalMeans


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    with accelerated() as accelerator:
        yield accelerator


def test_means_leave_out_what_is_not_finite(accelerator: Accelerator) -> None:
    means = IntervalMeans(accelerator)
    assert means.take() == {}
    values = np.random.default_rng(0).normal(size=(7, 3))
    values[2, 1], values[:, 2] = np.nan, np.inf
    for row in values:
        means.add(("a", "b", "c"), torch.tensor(row, dtype=torch.float32))
    values[np.isinf(values)] = np.nan
    taken = means.take()
    assert [taken["a"], taken["b"]] == pytest.approx(np.nanmean(values[:, :2], axis=0).tolist(), rel=1e-6)
    assert np.isnan(taken["c"])
    means.add(("a", "b", "c"), torch.tensor([1.0, 2.0, 3.0]))
    assert means.take() == {"a": 1, "b": 2, "c": 3}


def test_means_continue_from_their_state(accelerator: Accelerator) -> None:
    whole, first, second = (IntervalMeans(accelerator) for _ in range(3))
    for means in (whole, first):
        means.add(("a", "b"), torch.tensor([1.0, float("nan")]))
    second.load_state_dict(first.state_dict())
    for means in (whole, second):
        means.add(("a", "b"), torch.tensor([4.0, 5.0]))
    assert whole.take() == second.take() == {"a": 2.5, "b": 5.0}
    second.load_state_dict(IntervalMeans(accelerator).state_dict())
    assert second.take() == {}


def test_state_is_a_snapshot(accelerator: Accelerator) -> None:
    means = IntervalMeans(accelerator)
    means.add(("a",), torch.tensor([1.0]))
    state = means.state_dict()
    means.add(("a",), torch.tensor([3.0]))
    means.load_state_dict(state)
    means.add(("a",), torch.tensor([2.0]))
    assert state["totals"].tolist() == [[1.0], [1.0]]


def test_names_must_stay(accelerator: Accelerator) -> None:
    means = IntervalMeans(accelerator)
    means.add(("a",), torch.tensor([1.0]))
    with pytest.raises(ValueError, match="same names"):
        means.add(("b",), torch.tensor([1.0]))


def test_the_watch_knows_what_waiting_cost() -> None:
    def slow() -> Iterator[int]:
        for i in range(3):
            time.sleep(0.02)
            yield i

    watch = Stopwatch()
    for i, _ in enumerate(watch.waiting(slow())):
        time.sleep(0.02)
        if i == 0:
            watch.restart()
    assert 0.03 < watch.waited < watch.elapsed
    assert watch.elapsed > 0.07
