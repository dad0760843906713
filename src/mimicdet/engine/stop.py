"""A clean end on SIGINT (Ctrl-C) and SIGTERM (a batch system takes the machine back)."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from mimicdet.errors import silence_half_made

ONE_REQUEST_S = 1.0
"""Signals that follow the first so soon are the same request: Ctrl-C or a batch system reaches a process twice, by its
group and by the study that started it."""


class TrainingStopped(KeyboardInterrupt):
    """Training ended on a signal, after writing a checkpoint. The message is one sentence: how to go on.

    A KeyboardInterrupt, so that ``except Exception`` in a script that trains does not swallow Ctrl-C.
    """


@dataclass
class StopRequest:
    """Remembers whether a signal has asked this process to stop."""

    made: bool = False
    raises: bool = False

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Makes a signal raise TrainingStopped instead of waiting to be noticed: for what a checkpoint precedes."""
        self.raises = True
        try:
            if self.made:
                raise TrainingStopped
            yield
        finally:
            self.raises = False


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns the first SIGINT or SIGTERM into a request only; a later one acts as it would outside.

    Does nothing in another thread than the main one, where Python allows no signal handlers.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    first = 0.0

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if request.made:
            if time.monotonic() - first >= ONE_REQUEST_S:
                restore()
                signal.raise_signal(number)
            return
        request.made, first = True, time.monotonic()
        if request.raises:
            silence_half_made()
            raise TrainingStopped
        if os.environ.get("RANK", "0") == "0":  # not print: the signal may have come in the middle of one
            os.write(2, b"\nstopping after this step; once more stops at once\n")

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, handle)
    try:
        yield request
    finally:
        restore()
