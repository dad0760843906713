"""Matches a detector's results with the ground truth once, which gives COCO's AP for any choice of images.

I images, K classes, T the ten IoU thresholds, D detections of a class, J results, N detections of all results and
classes.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Self

import numpy as np

Row = Mapping[str, Any]
"""An annotation or a result as COCO writes it."""
_OfImages = defaultdict[int, list[Row]]

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
LIMIT = 100
"""COCO counts so many detections of an image and class."""
_BITS = 1 << np.arange(len(THRESHOLDS), dtype=np.uint16)[:, None]  # (T, 1)


@dataclass(frozen=True)
class _Class:
    """Holds a class's detections over all images, best score first."""

    image: np.ndarray  # (D,) int64
    hit: np.ndarray  # (T, D) bool
    counts: np.ndarray  # (T, D) bool, False where a crowd region takes it
    objects: np.ndarray  # (I,) int64, objects of each image


@dataclass(frozen=True)
class Judged:
    """Holds what became of each detection that AP depends on; some kilobytes for a thousand objects."""

    images: int  # I
    classes: tuple[_Class, ...]  # K

    def ap(self, times: np.ndarray | None = None) -> float:
        """Returns COCO's AP over images that count ``times`` (I,) each, or once; -1 where no image has an object."""
        times = np.ones(self.images, np.int64) if times is None else times
        values = [value for one in self.classes if (value := _ap(one, times)) is not None]
        return float(np.mean(values)) if values else -1.0

    def pairs_with(self, other: Self) -> bool:
        """Says whether both number the same images alike: only then does a choice of images mean the same to both."""
        mine, theirs = (sorted(tuple(one.objects) for one in judged.classes) for judged in (self, other))
        return self.images == other.images and mine == theirs


def pack(results: Sequence[Judged]) -> dict[str, np.ndarray]:
    """Returns the arrays that :func:`unpack` makes the same results of; all of as many images and classes.

    The image of a detection stands as its distance from the one before, which takes less room when compressed.
    """
    classes = [one for judged in results for one in judged.classes]
    small = np.min_scalar_type(max((judged.images for judged in results), default=0))
    image = [np.diff(one.image.astype(small), prepend=small.type(0)) for one in classes]
    shape = len(results), len(results[0].classes), results[0].images
    return {
        "detections": np.array([len(one.image) for one in classes], np.int32).reshape(shape[:2]),  # (J, K)
        "image": np.concatenate([np.zeros(0, small), *image]),  # (N,)
        "hit": _as_bits([one.hit for one in classes]),  # (N,)
        "counts": _as_bits([one.counts for one in classes]),  # (N,)
        "objects": np.array([one.objects for one in classes], np.int32).reshape(shape),  # (J, K, I)
    }


def unpack(arrays: Mapping[str, np.ndarray]) -> list[Judged]:
    """Returns what :func:`pack` was given; KeyError or ValueError where the arrays are not of its kind."""
    objects = arrays["objects"].astype(np.int64)  # (J, K, I)
    ends = np.cumsum(arrays["detections"])
    image, hit, counts = (np.split(arrays[name], ends)[:-1] for name in ("image", "hit", "counts"))
    flat = objects.reshape(-1, objects.shape[2])  # (J K, I)
    classes = [
        _Class(np.cumsum(i, dtype=i.dtype).astype(np.int64), (h & _BITS) > 0, (c & _BITS) > 0, o)
        for i, h, c, o in zip(image, hit, counts, flat, strict=True)
    ]
    k = objects.shape[1]
    return [Judged(objects.shape[2], tuple(classes[j * k : (j + 1) * k])) for j in range(len(objects))]


def judge(ground_truth: Mapping[str, Any], detections: Sequence[Row], *, whole: bool = False) -> Judged:
    """Matches detections with objects as COCO does, greedily and best score first.

    The ground truth is a COCO dictionary, the detections are COCO results. Images are numbered by their files' names,
    so that they pair with those of the same data in another format, whose ids are others. Where ``whole``, detections
    that AP does not depend on stay.
    """
    images = sorted(ground_truth["images"], key=lambda image: (PurePath(image["file_name"]).stem, image["id"]))
    index = {image["id"]: i for i, image in enumerate(images)}
    objects, found = (_by_class(rows, index) for rows in (ground_truth["annotations"], detections))
    ids = [category["id"] for category in ground_truth["categories"]]
    classes = [_judge_class(objects[k], found[k], len(index)) for k in ids]
    return Judged(len(index), tuple(classes if whole else map(_to_last_hit, classes)))


def _by_class(rows: Sequence[Row], index: Mapping[Any, int]) -> defaultdict[Any, _OfImages]:
    """Returns COCO's rows by category and by the image's number; images in the order of their first rows."""
    found: defaultdict[Any, _OfImages] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        found[row["category_id"]][index[row["image_id"]]].append(row)
    return found


def _as_bits(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Returns (N,) uint16, a bit for each threshold, of (T, D) of every result and class."""
    return np.concatenate([np.zeros(0, np.uint16), *((part * _BITS).sum(0, dtype=np.uint16) for part in parts)])


def _ap(one: _Class, times: np.ndarray) -> float | None:
    """Returns a class's AP; None where no image has an object of it."""
    if (total := int((one.objects * times).sum())) == 0:
        return None
    weight, values = times[one.image], []
    all_count = np.cumsum(weight)
    for hit, counts in zip(one.hit, one.counts, strict=True):
        # Precision falls between hits, so hits alone are looked at. One of an image that was not drawn repeats the
        # point before it, which changes nothing
        place = np.flatnonzero(hit)
        seen = all_count if counts.all() else np.cumsum(weight * counts)
        hits = np.cumsum(weight[place])
        precision = hits / np.maximum(seen[place], 1)
        best = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
        reached = np.searchsorted(hits / total, RECALLS, side="left")
        values.append(best[reached].mean())
    return float(np.mean(values))


def _judge_class(objects: _OfImages, detections: _OfImages, images: int) -> _Class:
    nothing = np.zeros((len(THRESHOLDS), 0), bool)
    parts = [(np.zeros(0), np.zeros(0, np.int64), nothing, nothing)]
    for i, found in detections.items():
        found = sorted(found, key=lambda d: -d["score"])[:LIMIT]
        hit, counts = _match(found, objects[i])
        parts.append((np.array([d["score"] for d in found], float), np.full(len(found), i), hit, counts))
    number = [sum(not a.get("iscrowd", 0) for a in objects[i]) for i in range(images)]
    scores, image, hit, counts = (np.concatenate(part, axis=-1) for part in zip(*parts, strict=True))
    order = np.argsort(-scores, kind="stable")
    return _Class(image[order], hit[:, order], counts[:, order], np.array(number, np.int64))


def _to_last_hit(one: _Class) -> _Class:
    """Returns what AP depends on, precision at hits: up to the last one, between two in the order of images."""
    is_hit = one.hit.any(0)  # (D,)
    before: np.ndarray = np.cumsum(is_hit) - is_hit  # (D,) so many hits
    order = np.lexsort((one.image, is_hit, before))[: np.flatnonzero(is_hit).max(initial=-1) + 1]
    return _Class(one.image[order], one.hit[:, order], one.counts[:, order], one.objects)


def _match(found: list[Row], objects: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Returns which detections, best score first, hit an object and which count, both (T, D)."""
    hit, counts = np.zeros((len(THRESHOLDS), len(found)), bool), np.ones((len(THRESHOLDS), len(found)), bool)
    if not objects or not found:
        return hit, counts
    crowd = np.array([bool(a.get("iscrowd", 0)) for a in objects])
    overlap = _overlaps(found, objects, crowd)
    free = np.ones((len(THRESHOLDS), len(objects)), bool)
    for k in range(len(found)):
        possible = (overlap[k] >= np.minimum(THRESHOLDS, 1 - 1e-10)[:, None]) & free
        real = np.where(possible & ~crowd, overlap[k], -1)
        # Of equal overlaps COCO keeps the last
        best = len(objects) - 1 - real[:, ::-1].argmax(1)
        hits = real.max(1) >= 0
        hit[hits, k] = True
        free[hits, best[hits]] = False
        counts[~hits & (possible & crowd).any(1), k] = False
    return hit, counts


def _overlaps(found: list[Row], objects: list[Row], crowd: np.ndarray) -> np.ndarray:
    """Returns (D, M) IoU; with crowd regions the share of the detection that lies inside."""
    a, b = (np.array([x["bbox"] for x in rows], float) for rows in (found, objects))
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    inner = np.clip(high - low, 0, None).prod(-1)
    areas = a[:, 2:].prod(1)[:, None], b[:, 2:].prod(1)[None]
    union = np.where(crowd, areas[0], areas[0] + areas[1] - inner)
    return np.divide(inner, union, out=np.zeros_like(inner), where=union > 0)
