from __future__ import annotations

import pytest

from mimicdet.lab import bench as timing
from mimicdet.lab.bench import Timing, alternate, ratio


def test_every_case_runs_once_a_round_and_warm_up_does_not_count() -> None:
    calls: list[str] = []
    found = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=1)
    assert "".join(calls) == "ba" + "ab" + "ba" + "ab"
    assert {name: len(t.samples) for name, t in found.items()} == {"a": 3, "b": 3}


def test_durations_are_milliseconds_of_the_case_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])

    def work(seconds: float) -> None:
        clock[0] += seconds

    found = alternate({"quick": lambda: work(0.002), "slow": lambda: work(0.5)}, rounds=5)
    assert found["quick"].samples == pytest.approx([2.0] * 5)
    assert found["slow"].median == pytest.approx(500.0)
    assert ratio(found["quick"], found["slow"]) == pytest.approx(0.004)


def test_median_and_deciles() -> None:
    t = Timing(tuple(float(i) for i in (5, 1, 3, 2, 4, 6, 7, 8, 9, 10, 0)))
    assert (t.low, t.median, t.high) == (1, 5, 9)


def test_a_ratio_is_of_rounds_and_not_of_medians() -> None:
    """A machine that slows down in the middle of a run leaves ratios as they are."""
    assert ratio(Timing((1.0, 2.0, 50.0)), Timing((2.0, 4.0, 100.0))) == 0.5
    assert ratio(Timing((1.0, 10.0, 10.0)), Timing((1.0, 1.0, 20.0))) == 1.0


def test_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds"):
        alternate({"a": lambda: None}, rounds=0)
