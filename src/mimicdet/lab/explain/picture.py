"""Draws objects with the adjusted box and the points that the S-head reads, one column a model (Figure 3)."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from mimicdet.lab.explain.alignment import Sight
from mimicdet.report.draw import contact_sheet

_CELL = 360
"""The side of an object's picture, in pixels."""
_MARGIN = 0.35
"""The room around an object, as a share of its longer side."""
_BOX, _OBJECT, _INSIDE, _OUTSIDE = (86, 180, 233), (255, 255, 255), (240, 228, 66), (213, 94, 0)
"""Colours of Okabe and Ito's palette: adjusted box, object, points inside the box and outside it."""


def choose_objects(sights: Sequence[Sequence[Sight | None]], count: int) -> list[int]:
    """Chooses at most ``count`` of an image's objects that every model found, from the smallest to the largest."""
    boxes = {i: column[0].box for i, column in enumerate(zip(*sights, strict=True)) if all(column)}
    found = sorted(boxes, key=lambda i: float(np.prod(boxes[i][2:] - boxes[i][:2])))
    if len(found) <= count:
        return found
    return [found[round(k * (len(found) - 1) / max(count - 1, 1))] for k in range(count)]


def draw_alignment(
    image: np.ndarray, columns: Sequence[tuple[str, Sequence[Sight | None]]], objects: Sequence[int]
) -> Image.Image:
    """Draws a row for each object and a column for each model.

    The image is (h, w, 3) uint8 RGB. A column has a model's name, and its sight of each of the image's objects;
    ``objects`` are the indices of those to draw, each found by all models.
    """
    cells, titles = [], []
    for i in objects:
        sights = [sight for _, column in columns if (sight := column[i]) is not None]
        view = _view(sights, image.shape[:2])
        for (name, _), sight in zip(columns, sights, strict=True):
            cells.append(_draw(image, sight, view))
            titles.append(f"{name}\n{sight.inside:.0%} inside, IoU {sight.overlap:.2f}")
    return contact_sheet(cells, titles=titles, columns=len(columns), cell=_CELL)


def _view(sights: Sequence[Sight], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns a square around an object and its adjusted boxes, for all models, inside the image where it fits."""
    boxes = np.array([box for sight in sights for box in (sight.box, sight.adjusted_box)])
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    half = max(float((high - low).max()), 8.0) * (0.5 + _MARGIN)
    limits = np.array(shape[::-1])  # width, height
    start = np.minimum(np.maximum((low + high) / 2 - half, 0), np.maximum(limits - 2 * half, 0)).round().astype(int)
    end = np.minimum(start + round(2 * half), limits)
    return int(start[0]), int(start[1]), int(end[0]), int(end[1])


def _draw(image: np.ndarray, sight: Sight, view: tuple[int, int, int, int]) -> Image.Image:
    left, top, right, bottom = view
    scale = _CELL / max(right - left, bottom - top)
    crop = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    size = max(round(crop.width * scale), 1), max(round(crop.height * scale), 1)
    picture = crop.resize(size, Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    origin = np.array([left, top])

    def frame(box: np.ndarray, color: tuple[int, int, int], width: int) -> None:
        (x1, y1), (x2, y2) = (box.reshape(2, 2) - origin) * scale
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=width + 2)
        draw.rectangle((x1, y1, x2, y2), outline=color, width=width)

    frame(sight.box, _OBJECT, 1)
    frame(sight.adjusted_box, _BOX, 3)
    x1, y1, x2, y2 = sight.adjusted_box
    for x, y in sight.points:
        color = _INSIDE if x1 <= x <= x2 and y1 <= y <= y2 else _OUTSIDE
        px, py = ((x - left) * scale, (y - top) * scale)
        draw.ellipse((px - 5, py - 5, px + 5, py + 5), fill=color, outline=(0, 0, 0))
    return picture
