"""Looks at all boxes of a split at once, for what no single box tells: another unit, another image, placeholders."""

import numpy as np

from mimicdet.data.clean import FIRST_PIXEL
from mimicdet.data.dataset import DetectionDataset

ENOUGH = 10, 3
"""So many objects, in so many images, must all be alike before it is no chance."""


def odd_boxes(dataset: DetectionDataset) -> str | None:
    """Returns what makes the boxes of a split unlikely as a whole, None where nothing does."""
    records = [record for record in dataset.images if not record.crowd.all()]
    boxes = np.concatenate([np.zeros((0, 4)), *(record.boxes[~record.crowd] for record in records)])  # (N, 4)
    if len(boxes) < ENOUGH[0] or len(records) < ENOUGH[1]:
        return None
    counts = [int((~record.crowd).sum()) for record in records]
    sides = np.repeat([[r.width, r.height] * 2 for r in records], counts, axis=0)  # (N, 4)
    shares = boxes / sides
    if (np.ptp(boxes, axis=0) == 0).all() or (np.ptp(shares, axis=0) < 1e-6).all():
        return f"its {len(boxes)} boxes are all the same, as placeholders are; draw them"
    if (shares[:, 2:] <= 0.5).all() and (boxes[:, 2:] > FIRST_PIXEL).any():  # fractions are told of one by one
        problem = f"its {len(boxes)} boxes all lie in the upper left quarter of their images"
        return f"{problem}, as percentages do, or boxes drawn on a smaller copy; check that they are in pixels"
    return None
