"""A budget of pixels: never more at once, nobody waits for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given, settings
from hypothesis import strategies as st

from mimicdet.data.budget import PixelBudget


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 25), max_size=30))
def test_no_more_than_the_limit_is_taken_but_by_one_alone(wanted: list[int]) -> None:
    budget, lock, now, wrong = PixelBudget(10), threading.Lock(), [], []

    def use(pixels: int) -> None:
        with budget.taken(pixels):
            with lock:
                now.append(pixels)
                if sum(now) > 10 and len([n for n in now if n]) > 1:
                    wrong.append(list(now))
            with lock:
                now.remove(pixels)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, wanted))
    assert wrong == []


def test_what_is_too_large_for_a_share_is_alone_among_all_processes() -> None:
    alone = threading.Lock()  # as worker processes share it
    one, other = PixelBudget(10, alone), PixelBudget(10, alone)
    with one.taken(11):
        assert alone.locked()
        with other.taken(10):
            pass
    assert not alone.locked()
