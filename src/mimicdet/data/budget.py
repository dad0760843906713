"""Bounds how many pixels are decoded at once, over all threads of a process and over its worker processes."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext


class PixelBudget:
    """A budget lets so many pixels be decoded at the same time; whoever wants more waits.

    Args:
        limit: pixels. An image with more is decoded alone.
        alone: is held meanwhile by such an image; worker processes share it, of which each has a budget of its own.
    """

    def __init__(self, limit: int, alone: AbstractContextManager | None = None) -> None:
        self.limit, self._alone = limit, alone or nullcontext()
        self._used, self._changed = 0, threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Takes ``pixels`` from the budget, once there are as many, and gives them back at the end."""
        with self._alone if pixels > self.limit else nullcontext():
            with self._changed:
                self._changed.wait_for(lambda: not self._used or self._used + pixels <= self.limit)
                self._used += pixels
            try:
                yield
            finally:
                with self._changed:
                    self._used -= pixels
                    self._changed.notify_all()
