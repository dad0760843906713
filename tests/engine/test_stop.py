"""Signals make a request; the second one acts as ever; at once where that is allowed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from mimicdet.engine.stop import ONE_REQUEST_S, StopRequest, TrainingStopped, stop_on_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_handlers_come_back(number: int) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with stop_on_signals() as stop:
        assert not stop.made
        signal.raise_signal(number)
        assert stop.made
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.fixture
def python_handles_ctrl_c() -> Iterator[None]:
    """A shell's background jobs are started with SIGINT ignored, and so is then a test run among them."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.usefixtures("python_handles_ctrl_c")
def test_the_second_signal_interrupts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless it comes with the first: that is one request which came by two ways."""
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with stop_on_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        now += ONE_REQUEST_S / 2
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.made
        now += ONE_REQUEST_S
        with pytest.raises(KeyboardInterrupt) as raised:
            signal.raise_signal(signal.SIGINT)
    assert not isinstance(raised.value, TrainingStopped)


def test_at_once() -> None:
    with stop_on_signals() as stop:
        with stop.at_once():
            pass
        with pytest.raises(TrainingStopped), stop.at_once():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(TrainingStopped), stop.at_once():  # asked before
            pytest.fail("not reached")


def test_except_exception_does_not_swallow_it() -> None:
    assert not issubclass(TrainingStopped, Exception)


def test_other_threads_cannot_have_handlers() -> None:
    requests: list[StopRequest] = []

    def work() -> None:
        with stop_on_signals() as stop:
            requests.append(stop)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not requests[0].made
