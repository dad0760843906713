"""The bootstrap's intervals against what is known."""

from __future__ import annotations

import numpy as np

from mimicdet.lab.study.comparison import paired_interval, resampled_ap
from mimicdet.lab.study.judged import judge
from tests.lab.study.test_judged import draw


def test_intervals() -> None:
    """Nothing between a detector and itself; a clearly better one lies above nothing; the mean lies inside."""
    truth, worse = draw(3, images=40, noise=9.0)
    _, better = draw(3, images=40, noise=2.0)
    first, second = judge(truth, better), judge(truth, worse)
    one, other = resampled_ap(first, samples=200), resampled_ap(second, samples=200)
    assert paired_interval([one], [one]) == (0.0, 0.0)
    low, high = paired_interval([one], [other])
    assert 0 < low < first.ap() - second.ap() < high
    wide = paired_interval([one], [other], level=0.5)
    assert low < wide[0] < wide[1] < high
    assert paired_interval([one, other], [other, one]) == (0.0, 0.0)


def test_choices_of_images_are_the_same_for_all_and_again() -> None:
    """The same detector has the same AP in each; another seed draws others."""
    truth, found = draw(5, images=20, noise=4.0)
    first = resampled_ap(judge(truth, found), samples=20)
    np.testing.assert_array_equal(first, resampled_ap(judge(truth, found), samples=20))
    assert first.std() > 0
    assert (first != resampled_ap(judge(truth, found), samples=20, seed=1)).any()
