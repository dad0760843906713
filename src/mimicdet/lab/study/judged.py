"""A detector's results beside the ground truth, matched once, of which COCO's AP can be had for any choice of images.

I images, K classes, T the ten IoU thresholds, D detections of a class, N of all classes, R the 101 recall points.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from mimicdet.errors import UserError
from mimicdet.files import replace_file

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


@dataclass(frozen=True)
class Judged:
    """What became of each detection; a few dozen kilobytes for a thousand images' detections."""

    images: int  # I
    classes: tuple[_Class, ...]  # K

    def ap(self, times: np.ndarray | None = None) -> float:
        """COCO's AP over images that count ``times`` (I,) each; None: once each. -1 where no image has an object."""
        times = np.ones(self.images, np.int64) if times is None else times
        values = [value for one in self.classes if (value := _ap(one, times)) is not None]
        return float(np.mean(values)) if values else -1.0

    def pairs_with(self, other: Judged) -> bool:
        """Whether both number the same images alike: only then does a choice of images mean the same to both."""
        mine, theirs = (sorted(tuple(one.objects) for one in judged.classes) for judged in (self, other))
        return self.images == other.images and mine == theirs

    def save(self, file: Path) -> None:
        """Writes a compressed NumPy archive; UserError where that is impossible."""
        written = io.BytesIO()
        np.savez_compressed(
            written,
            sizes=np.array([len(one.image) for one in self.classes], np.int64),  # (K,)
            image=np.concatenate(
                [np.zeros(0, np.int32), *(one.image.astype(np.int32) for one in self.classes)]
            ),  # (N,)
            hit=np.packbits(_joined([one.hit for one in self.classes]), axis=0),  # (2, N) of (T, N)
            counts=np.packbits(_joined([one.counts for one in self.classes]), axis=0),
            objects=np.array([one.objects for one in self.classes], np.int32).reshape(-1, self.images),  # (K, I)
        )
        replace_file(file, written.getvalue())

    @classmethod
    def load(cls, file: Path) -> Judged:
        """What :meth:`save` wrote.

        Raises:
            UserError: the file is missing or damaged.
        """
        try:
            with np.load(file, allow_pickle=False) as stored:
                ends = np.cumsum(stored["sizes"])[:-1]
                image, hit, counts = stored["image"].astype(np.int64), stored["hit"], stored["counts"]
                objects = stored["objects"].astype(np.int64)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{file} cannot be read ({error}); remove result.json beside it, or the folder if it "
                "has no checkpoints, and run the study again"
            ) from error
        parts = zip(
            np.split(image, ends),
            *(
                np.split(np.unpackbits(bits, axis=0, count=len(THRESHOLDS)).astype(bool), ends, 1)
                for bits in (hit, counts)
            ),
            objects,
            strict=True,
        )
        return cls(objects.shape[1], tuple(_Class(*part) for part in parts))


def judge(ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> Judged:
    """Matches detections with objects as COCO does.

    Images are numbered by their files' names, so that they pair with those of the same data in another format, whose
    ids are others.

    Args:
        ground_truth: a COCO dictionary.
        detections: COCO results.
    """
    images = sorted(ground_truth["images"], key=lambda image: (PurePath(image["file_name"]).stem, image["id"]))
    index = {image["id"]: i for i, image in enumerate(images)}
    classes = tuple(
        _judge_class(
            [a for a in ground_truth["annotations"] if a["category_id"] == category["id"]],
            [d for d in detections if d["category_id"] == category["id"]],
            index,
        )
        for category in ground_truth["categories"]
    )
    return Judged(len(index), classes)


def _joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """(T, D) of every class, beside one another."""
    return np.concatenate([np.zeros((len(THRESHOLDS), 0), bool), *parts], axis=1)


def _ap(one: _Class, times: np.ndarray) -> float | None:
    total = int((one.objects * times).sum())
    if total == 0:
        return None
    weight = times[one.image]
    all_count = np.cumsum(weight)
    values = []
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
