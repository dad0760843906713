"""Hulls against closed forms and against counting pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicdet.lab.explain.alignment import convex_hull, hull_overlap, polygon_area

numbers = st.integers(-20, 20)
point_lists = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30)


@pytest.mark.parametrize(
    ("points", "box", "expected"),
    [
        ([(0, 0), (4, 0), (4, 4), (0, 4), (2, 2), (2, 0)], (0, 0, 4, 4), 1),
        ([(0, 0), (4, 0), (4, 4), (0, 4)], (2, 2, 6, 6), 4 / 28),
        ([(0, 0), (4, 0), (4, 4), (0, 4)], (1, 1, 2, 2), 1 / 16),
        ([(0, 0), (4, 0), (0, 4)], (0, 0, 4, 4), 0.5),
        ([(0, 0), (4, 0), (4, 4), (0, 4)], (10, 10, 12, 12), 0),
        ([(0, 0), (2, 2), (4, 4)], (0, 0, 4, 4), 0),  # on one line
        ([(1, 1)], (0, 0, 4, 4), 0),
        ([(0, 0), (4, 0), (4, 4), (0, 4)], (3, 3, 3, 3), 0),
    ],
)
def test_closed_forms(points: list[tuple[float, float]], box: tuple[float, ...], expected: float) -> None:
    assert hull_overlap(np.array(points, dtype=float), np.array(box, dtype=float)) == pytest.approx(expected)


@given(point_lists)
def test_a_hull_is_convex_and_holds_every_point(points: list[tuple[int, int]]) -> None:
    hull = convex_hull(np.array(points, dtype=float))
    assert {tuple(corner) for corner in hull} <= {tuple(map(float, p)) for p in points}
    if len(hull) < 3:
        return
    for a, b in zip(hull, np.roll(hull, -1, axis=0), strict=True):
        for x, y in points:  # none lies to the right of an edge
            assert (b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]) >= 0
    assert polygon_area(hull) > 0


@settings(max_examples=40)
@given(point_lists, numbers, numbers, st.integers(1, 20), st.integers(1, 20))
def test_overlap_counts_pixels(points: list[tuple[int, int]], x: int, y: int, width: int, height: int) -> None:
    """A grid of small cells, each inside the hull when it lies to the left of every edge."""
    hull, step = convex_hull(np.array(points, dtype=float)), 1 / 8
    axis = np.arange(-21, 42, step) + step / 2
    px, py = np.meshgrid(axis, axis)
    in_box = (px > x) & (px < x + width) & (py > y) & (py < y + height)
    in_hull = np.full_like(in_box, len(hull) > 2)
    for a, b in zip(hull, np.roll(hull, -1, axis=0), strict=True):
        in_hull &= (b[0] - a[0]) * (py - a[1]) - (b[1] - a[1]) * (px - a[0]) > 0
    expected = (in_box & in_hull).sum() / (in_box | in_hull).sum()
    found = hull_overlap(np.array(points, dtype=float), np.array([x, y, x + width, y + height], dtype=float))
    assert found == pytest.approx(expected, abs=0.06)
