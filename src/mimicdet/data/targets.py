"""Counts the objects that training can learn from, before it begins: crowd and objects below a pixel are no targets."""

import numpy as np

from mimicdet.data.dataset import DetectionDataset
from mimicdet.data.transform import MIN_KEPT_SIDE, resized_size
from mimicdet.errors import UserError


def require_targets(dataset: DetectionDataset, *, shorter_side: int, longer_side: int, zoom: float) -> str | None:
    """Returns a sentence about objects that are too small to be targets, None where there are none.

    Args:
        shorter_side, longer_side: the largest size that training resizes images to, in pixels.
        zoom: the largest factor that it zooms in by.

    Raises:
        UserError: no object at all could be a target, so that there is nothing to learn.
    """
    objects, crowd, small = 0, 0, 0
    for record in dataset.images:
        resized = resized_size(*record.size, shorter_side=shorter_side, longer_side=longer_side)
        y_scale, x_scale = (max(zoom, 1.0) * new / old for old, new in zip(record.size, resized, strict=True))
        sides = (record.boxes[:, 2:] - record.boxes[:, :2])[~record.crowd] * (x_scale, y_scale)  # (M', 2)
        objects, crowd = objects + len(sides), crowd + int(record.crowd.sum())
        small += int(np.count_nonzero((sides < MIN_KEPT_SIDE - 1e-6).any(axis=1)))
    size = f"{shorter_side} x {longer_side} pixels (data.shorter_side, data.longer_side)"
    problem = None
    if not objects:
        problem = "no object; add objects, or train on another split"
        if crowd:
            problem = f"no object; its {crowd} regions are marked as crowd or difficult, which are never learned"
            problem += "; add objects, or mend the marks"
    elif small == objects:
        problem = f"no object that could be learned: at {size} all {objects} have a side below one pixel"
        problem += "; give the boxes in pixels, or train at a larger size"
    if problem is not None:
        raise UserError(f"{dataset.root}: the split '{dataset.split}' has {problem}")
    return f"{small} of {objects} objects have a side below one pixel at {size} and are not learned" if small else None
