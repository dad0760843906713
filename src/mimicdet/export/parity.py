"""Compares an exported file's results with eager's, on photographs at several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from mimicdet.data.transform import resize_for_inference
from mimicdet.export.description import Outputs
from mimicdet.export.network import NO_LABEL
from mimicdet.export.runtimes import Run

BOX_LIMIT = 0.01
"""The largest difference of a coordinate, in pixels."""
SCORE_LIMIT = 1e-4
UNMATCHED_LIMIT = 0.005
"""The largest share of rows without a counterpart: rounding may rank two positions or boxes otherwise."""

SIZES = ((1, 320, 448), (2, 256, 352), (1, 608, 416), (3, 96, 160))
"""Batch, height and width of each comparison; the export was traced with none of them."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Tells how far a file's results lie from eager's on one batch."""

    batch: int
    height: int
    width: int
    rows: int
    """The positions (raw) or detections that were compared."""
    unmatched: int
    """The rows that only one of the two has."""
    boxes: float
    """The largest difference of a coordinate, in pixels of the resized image."""
    scores: float

    @property
    def is_equal(self) -> bool:
        """Says whether the file may be kept."""
        return (
            self.boxes <= BOX_LIMIT
            and self.scores <= SCORE_LIMIT
            and self.unmatched <= max(1, UNMATCHED_LIMIT * self.rows)
        )


def compare(network: nn.Module, run: Run, photographs: Sequence[np.ndarray], outputs: Outputs) -> list[Difference]:
    """Compares both on the same batches of photographs, which are resized to the sizes above.

    Args:
        network: what was exported, on the CPU.
        run: the exported file.
        photographs: (h, w, 3) uint8 RGB, at least one.
    """
    found = []
    for batch, height, width in SIZES:
        images, sizes = _batch(photographs, batch, height, width)
        with torch.inference_mode():
            expected = [tensor.numpy() for tensor in network(images, sizes)]
        exported = run(images.numpy(), sizes.numpy())
        found.append(_difference(expected, exported, outputs, (batch, height, width)))
    return found


def _batch(photographs: Sequence[np.ndarray], batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    images = torch.zeros(batch, 3, height, width, dtype=torch.uint8)
    sizes = torch.zeros(batch, 2, dtype=torch.int64)
    for i in range(batch):
        # Each a little smaller than the one before, so that there is padding, and another photograph where there are
        resized = resize_for_inference(
            photographs[i % len(photographs)], min(height, width) - 13 * i, max(height, width) - 13 * i
        )[:, :height, :width]
        sizes[i] = torch.tensor(resized.shape[1:])
        images[i, :, : resized.shape[1], : resized.shape[2]] = resized
    return images, sizes


def _difference(
    expected: Sequence[np.ndarray], exported: Sequence[np.ndarray], outputs: Outputs, shape: tuple[int, int, int]
) -> Difference:
    rows, unmatched, boxes, scores = 0, 0, 0.0, 0.0
    for first, second in zip(zip(*expected, strict=True), zip(*exported, strict=True), strict=True):
        first, second = (_found(*part) if outputs == "detections" else _scored(*part) for part in (first, second))
        one, other = _pair(first[0], first[1], second[0], second[1])
        rows += max(len(first[0]), len(second[0]))
        unmatched += max(len(first[0]), len(second[0])) - len(one)
        if len(one):
            boxes = max(boxes, float(np.abs(first[0][one] - second[0][other]).max()))
            scores = max(scores, float(np.abs(first[1][one] - second[1][other]).max()))
    batch, height, width = shape
    return Difference(
        batch=batch, height=height, width=width, rows=rows, unmatched=unmatched, boxes=boxes, scores=scores
    )


def _found(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows that are detections, with the class as a one-hot score so that only equal classes pair."""
    rows = labels != NO_LABEL
    one_hot = np.zeros((int(rows.sum()), int(labels.max(initial=0)) + 1), dtype=np.float32)
    one_hot[np.arange(len(one_hot)), labels[rows]] = scores[rows]
    return boxes[rows], one_hot


def _scored(boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leaves out the positions on the padding, which score 0 and all lie at the image's edge."""
    rows = scores.max(1) > 0
    return boxes[rows], scores[rows]


def _pair(
    boxes: np.ndarray, scores: np.ndarray, other_boxes: np.ndarray, other_scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs rows of the one and the other: to each belongs the nearest that is left, if it is near at all."""
    if not len(boxes) or not len(other_boxes):
        return np.zeros(0, dtype=int), np.zeros(0, dtype=int)
    classes = max(scores.shape[1], other_scores.shape[1])
    padded = [np.pad(s, ((0, 0), (0, classes - s.shape[1]))) for s in (scores, other_scores)]
    first, second = (
        torch.from_numpy(np.concatenate([b, s / SCORE_LIMIT * BOX_LIMIT], 1).astype(np.float64))
        for b, s in zip((boxes, other_boxes), padded, strict=True)
    )
    distance = torch.cdist(first, second, p=float("inf"), compute_mode="donot_use_mm_for_euclid_dist").numpy()
    pairs = []
    for i, row in enumerate(distance):
        j = int(row.argmin())
        if row[j] < 1:
            pairs.append((i, j))
            distance[:, j] = np.inf  # boxes clipped to the same image edges may be equal: each counts once
    one, other = np.array(pairs, dtype=int).reshape(-1, 2).T
    return one, other
