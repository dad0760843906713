"""How much of a difference between two detectors is the choice of images: a paired bootstrap of COCO's AP.

I images, K classes, T the ten IoU thresholds, D detections of a class, R the 101 recall points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
LIMIT = 100
"""Detections of an image and class that count, COCO's."""


@dataclass(frozen=True)
class _Class:
    """A class's detections over all images, best score first."""

    image: np.ndarray  # (D,) int64
    hit: np.ndarray  # (T, D) bool
    counts: np.ndarray  # (T, D) bool, False where a crowd region takes it
    objects: np.ndarray  # (I,) objects of each image


class Judged:
    """A detector's results, matched once, whose AP can be had for any choice of images with repetition.

    Args:
        ground_truth: a COCO dictionary.
        detections: COCO results.
    """

    def __init__(self, ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> None:
        index = {image["id"]: i for i, image in enumerate(ground_truth["images"])}
        self.images = len(index)
        self._classes = [
            _judge_class(
                [a for a in ground_truth["annotations"] if a["category_id"] == category["id"]],
                [d for d in detections if d["category_id"] == category["id"]], index,
            )
            for category in ground_truth["categories"]
        ]  # fmt: skip

    def ap(self, times: np.ndarray | None = None) -> float:
        """COCO's AP over images that count ``times`` (I,) each; None: once each. -1 where no image has an object."""
        times = np.ones(self.images, np.int64) if times is None else times
        values = [value for one in self._classes if (value := _ap(one, times)) is not None]
        return float(np.mean(values)) if values else -1.0


def paired_interval(
    first: Sequence[Judged], second: Sequence[Judged], *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """The interval of mean AP of ``first`` - mean AP of ``second`` over resampled images, the same for all.

    Args:
        first, second: one of each seed; on the same images.
    """
    generator = np.random.default_rng(seed)
    images = first[0].images
    differences = []
    for _ in range(samples):
        times = np.bincount(generator.integers(0, images, images), minlength=images)
        means = [np.mean([judged.ap(times) for judged in side]) for side in (first, second)]
        differences.append(means[0] - means[1])
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _ap(one: _Class, times: np.ndarray) -> float | None:
    total = int((one.objects * times).sum())
    if total == 0:
        return None
    weight = times[one.image]
    hits = np.cumsum(one.hit * weight, axis=1)
    misses = np.cumsum((one.counts & ~one.hit) * weight, axis=1)
    # A detection of an image that was not drawn is not there: its point repeats the one before, which changes nothing
    precision = hits / np.maximum(hits + misses, 1)
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    recall = hits / total
    values = []
    for t in range(len(THRESHOLDS)):
        place = np.searchsorted(recall[t], RECALLS, side="left")
        values.append(np.append(best[t], 0.0)[np.minimum(place, best.shape[1])].mean())
    return float(np.mean(values))


def _judge_class(
    objects: list[Mapping[str, Any]], detections: list[Mapping[str, Any]], index: Mapping[Any, int]
) -> _Class:
    objects_of: dict[int, list[Mapping[str, Any]]] = {}
    for annotation in objects:
        objects_of.setdefault(index[annotation["image_id"]], []).append(annotation)
    found_of: dict[int, list[Mapping[str, Any]]] = {}
    for detection in detections:
        found_of.setdefault(index[detection["image_id"]], []).append(detection)
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for i, found in found_of.items():
        found = sorted(found, key=lambda d: -d["score"])[:LIMIT]
        hit, counts = _match(found, objects_of.get(i, []))
        scores = np.array([d["score"] for d in found], float)
        parts.append((scores, np.full(len(found), i), hit, counts))
    number = np.zeros(len(index), np.int64)
    for i, there in objects_of.items():
        number[i] = sum(not a.get("iscrowd", 0) for a in there)
    if not parts:
        nothing = np.zeros((len(THRESHOLDS), 0), bool)
        return _Class(np.zeros(0, np.int64), nothing, nothing, number)
    scores, image = (np.concatenate([part[k] for part in parts]) for k in (0, 1))
    hit, counts = (np.concatenate([part[k] for part in parts], axis=1) for k in (2, 3))
    order = np.argsort(-scores, kind="stable")
    return _Class(image[order], hit[:, order], counts[:, order], number)


def _match(found: list[Mapping[str, Any]], objects: list[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """(T, D) which detections hit an object, and which count; COCO's greedy matching, best score first."""
    t, d = len(THRESHOLDS), len(found)
    hit, counts = np.zeros((t, d), bool), np.ones((t, d), bool)
    if not objects or not found:
        return hit, counts
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in objects])
    overlap = _overlaps(found, objects, crowd)
    free = np.ones((t, len(objects)), bool)
    for k in range(d):
        possible = (overlap[k] >= np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]) & free
        real = np.where(possible & ~crowd, overlap[k], -1)
        # Of equal overlaps COCO keeps the last
        best = len(objects) - 1 - real[:, ::-1].argmax(1)
        hits = real.max(1) >= 0
        hit[hits, k] = True
        free[hits, best[hits]] = False
        counts[~hits & (possible & crowd).any(1), k] = False
    return hit, counts


def _overlaps(found: list[Mapping[str, Any]], objects: list[Mapping[str, Any]], crowd: np.ndarray) -> np.ndarray:
    """(D, M) IoU; with crowd regions the share of the detection that lies inside."""
    a, b = (np.array([x["bbox"] for x in rows], float) for rows in (found, objects))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    inner = np.clip(high - low, 0, None).prod(-1)
    areas = a[:, 2:].prod(1)[:, None], b[:, 2:].prod(1)[None]
    union = np.where(crowd, areas[0], areas[0] + areas[1] - inner)
    return np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
