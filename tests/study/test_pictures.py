"""The pictures of a study's table."""

from __future__ import annotations

import io
import itertools

from PIL import Image

from mimicdet.study.pictures import Row, _looks, picture_of_ap, picture_of_speed


def test_no_two_runs_look_alike() -> None:
    looks = list(itertools.islice(_looks(), 56))
    assert len(set(looks)) == 56
    assert ("#999999", "o") not in looks, "the baseline's"


def test_runs_without_times_are_left_out() -> None:
    """And a study of more runs than there are colours is drawn."""
    rows = [Row(f"run {i}", (10.0 + i, 11.0 + i), 20.0 * i if i else None, i == 1) for i in range(12)]
    for content in (picture_of_ap("Many", rows), picture_of_speed("Many", rows)):
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.width > 900
    assert picture_of_speed("Many", rows) == picture_of_speed("Many", rows[1:])
