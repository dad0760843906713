"""The convex hull of points, and how well it covers a box."""

from __future__ import annotations

import numpy as np
from matplotlib.path import Path
from matplotlib.transforms import Bbox


def convex_hull(points: np.ndarray) -> np.ndarray:
    """Corners of the convex hull of (T, 2) points, counter-clockwise where y points up; two or fewer if it has no area.

    Andrew's monotone chain: the lower half from left to right, the upper one back.
    """
    ordered = np.unique(points, axis=0)  # by x, then y
    if len(ordered) < 3:
        return ordered

    def half(chain: np.ndarray) -> list[np.ndarray]:
        corners: list[np.ndarray] = []
        for point in chain:
            while len(corners) > 1 and _turn(corners[-2], corners[-1], point) <= 0:
                corners.pop()
            corners.append(point)
        return corners

    return np.array(half(ordered)[:-1] + half(ordered[::-1])[:-1])


def polygon_area(corners: np.ndarray) -> float:
    """Of a polygon with corners (N, 2) in order (the shoelace formula)."""
    x, y = corners[:, 0], corners[:, 1]
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2) if len(corners) > 2 else 0.0


def hull_overlap(points: np.ndarray, box: np.ndarray) -> float:
    """IoU of the convex hull of (T, 2) points with a box x1 y1 x2 y2; 0 where neither has an area."""
    hull = convex_hull(np.asarray(points, dtype=np.float64))
    x1, y1, x2, y2 = (float(value) for value in box)
    areas = polygon_area(hull), max(x2 - x1, 0.0) * max(y2 - y1, 0.0)
    if not all(areas):
        return 0.0
    clipped = Path(hull, closed=False).clip_to_bbox(Bbox([[x1, y1], [x2, y2]]))
    common = polygon_area(np.asarray(clipped.vertices))
    return common / (sum(areas) - common)


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    """Above 0 where the way from a over b to c turns left."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
