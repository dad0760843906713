"""The bootstrap's intervals against what is known."""

from __future__ import annotations

from mimicdet.study.bootstrap import paired_interval
from mimicdet.study.judged import judge
from tests.study.test_judged import draw


def test_intervals() -> None:
    """Nothing between a detector and itself; a clearly better one lies above nothing; the mean lies inside."""
    truth, worse = draw(3, images=40, noise=9.0)
    _, better = draw(3, images=40, noise=2.0)
    first, second = judge(truth, better), judge(truth, worse)
    assert paired_interval([first], [first], samples=50) == (0.0, 0.0)
    low, high = paired_interval([first], [second], samples=200)
    assert 0 < low < first.ap() - second.ap() < high
    assert paired_interval([first], [second], samples=200) == (low, high)
    wide = paired_interval([first], [second], samples=200, level=0.5)
    assert low < wide[0] < wide[1] < high
