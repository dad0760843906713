"""COCO's twelve numbers and the AP of each class, computed by faster-coco-eval.

A number is -1 where it is undefined (no object of that size, say), as in COCO's own evaluation; it is never NaN.
T are the ten IoU thresholds .50:.05:.95, R the 101 recall points, K the classes, A the area ranges
all/small/medium/large, M the limits on detections.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

METRIC_NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")

COCO_LIMITS = (1, 10, 100)
"""Detections that COCO counts per image and class: for AR1, AR10, and everything else."""

_UNDEFINED = -1.0

_Ids = tuple[dict[Any, int], dict[Any, int]]  # images and categories, by their own ids


@dataclass(frozen=True)
class Metrics:
    """Holds an evaluation's result. ``metrics["AP50"]`` reads one of COCO's twelve numbers, each in 0..1 or -1."""

    numbers: dict[str, float]  # the twelve, keyed by ``METRIC_NAMES`` in that order
    class_ap: dict[str, float]  # AP of each class by name, in the order of the categories
    class_ap50: dict[str, float]  # AP at IoU 0.5 of each class by name
    images: int
    objects: int  # those that count: crowd regions are left out
    detections: int

    def __getitem__(self, name: str) -> float:
        return self.numbers[name]

    def to_json(self) -> dict[str, Any]:
        """Returns a dictionary for ``json.dump``: the twelve numbers at the top, then the classes and the counts.

        A number that is undefined is None.
        """
        numbers, *classes = (
            {name: None if value == _UNDEFINED else value for name, value in values.items()}
            for values in (self.numbers, self.class_ap, self.class_ap50)
        )
        counts = {"images": self.images, "objects": self.objects, "detections": self.detections}
        return {**numbers, "per_class_AP": classes[0], "per_class_AP50": classes[1], **counts}


def coco_metrics(
    ground_truth: Mapping[str, Any],
    detections: Sequence[Mapping[str, Any]],
    *,
    limits: tuple[int, int, int] = COCO_LIMITS,
) -> Metrics:
    """Evaluates boxes as COCO does.

    Args:
        ground_truth: a COCO dictionary with ``images``, ``annotations`` and ``categories``. Any ids, gaps and 0
            included. ``iscrowd`` and ``area`` may be missing: no crowd, and the area of the box.
        detections: COCO results, each with ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels of
            the original image) and ``score``. Neither argument is changed.
        limits: detections counted per image and class, ascending. AP and the AR of sizes go by the last. COCO's are
            1, 10 and 100; aerial images with hundreds of objects need more, and ``AR100`` then holds the recall at
            that larger number.

    Raises:
        ValueError: a detection names an image or category that the ground truth does not have, or its box or score is
            not finite.
    """
    if len(limits) != 3 or list(limits) != sorted(set(limits)) or limits[0] < 1:
        raise ValueError(f"limits must be three ascending numbers from 1 up, not {limits}")
    images, categories = ground_truth["images"], ground_truth["categories"]
    for key, known in (("image_id", images), ("category_id", categories)):
        if unknown := {detection[key] for detection in detections} - {entry["id"] for entry in known}:
            raise ValueError(f"detections name {key} {min(unknown)}, which the ground truth does not have")
    ids = _numbers(images), _numbers(categories)
    truth = [_truth(annotation, i, ids) for i, annotation in enumerate(ground_truth["annotations"], start=1)]
    found = [_detection(detection, i, ids) for i, detection in enumerate(detections, start=1)]
    precision, recall = _tables(*ids, truth, found, limits)
    return Metrics(
        numbers=_twelve(precision, recall),
        class_ap=_by_class(categories, precision[..., 0, 2]),
        class_ap50=_by_class(categories, precision[:1, ..., 0, 2]),
        images=len(images),
        objects=sum(not annotation["iscrowd"] for annotation in truth),
        detections=len(found),
    )


def _tables(
    images: dict[Any, int],
    categories: dict[Any, int],
    truth: list[dict[str, Any]],
    found: list[dict[str, Any]],
    limits: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Precision (T, R, K, A, M) and recall (T, K, A, M) for numbered images and classes; -1 where undefined."""
    if not images or not categories:  # the library cannot shape its tables then
        k = len(categories)
        return np.full((10, 101, k, 4, 3), _UNDEFINED), np.full((10, k, 4, 3), _UNDEFINED)

    def index(annotations: list[dict[str, Any]]) -> COCO:
        shared = {"images": [{"id": i} for i in images.values()]}
        shared["categories"] = [{"id": c} for c in categories.values()]
        return COCO({**shared, "annotations": annotations}, print_function=_silent)

    evaluation = COCOeval_faster(index(truth), index(found), iouType="bbox", print_function=_silent)
    evaluation.params.maxDets = list(limits)
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


def _twelve(precision: np.ndarray, recall: np.ndarray) -> dict[str, float]:
    everything, sizes, most = 0, (1, 2, 3), 2
    parts = [precision[t, ..., everything, most] for t in (slice(None), 0, 5)]  # all IoU thresholds, .50, .75
    parts += [precision[..., size, most] for size in sizes]
    parts += [recall[..., everything, limit] for limit in range(3)]
    parts += [recall[..., size, most] for size in sizes]
    return {name: _mean(part) for name, part in zip(METRIC_NAMES, parts, strict=True)}


def _by_class(categories: Sequence[Mapping[str, Any]], precision: np.ndarray) -> dict[str, float]:
    """The mean of precision (T, R, K) of each class by name, in the order of the categories.

    A name that two categories share gets the id behind it.
    """
    uses = Counter(category["name"] for category in categories)
    names = [c["name"] if uses[c["name"]] == 1 else f"{c['name']} (id {c['id']})" for c in categories]
    # The table's classes go by ascending category id
    column = {category_id: k for k, category_id in enumerate(sorted(c["id"] for c in categories))}
    return {name: _mean(precision[:, :, column[c["id"]]]) for name, c in zip(names, categories, strict=True)}


def _silent(*_: object, **__: object) -> None:
    pass


def _mean(values: np.ndarray) -> float:
    defined = values[values > _UNDEFINED]
    return float(defined.mean()) if defined.size else _UNDEFINED


def _numbers(entries: Sequence[Mapping[str, Any]]) -> dict[Any, int]:
    """Numbers the ids of images or categories 1, 2, ... in their order, in which equal scores are ranked.

    The library would keep ids as floats, in which those above 2^53 are no longer told apart.
    """
    return {own: number for number, own in enumerate(sorted({entry["id"] for entry in entries}), start=1)}


def _truth(annotation: Mapping[str, Any], number: int, ids: _Ids) -> dict[str, Any]:
    box = [float(value) for value in annotation["bbox"]]
    area, crowd = float(annotation.get("area", box[2] * box[3])), int(annotation.get("iscrowd", 0))
    return {**_row(annotation, number, ids), "bbox": box, "area": area, "iscrowd": crowd}


def _detection(detection: Mapping[str, Any], number: int, ids: _Ids) -> dict[str, Any]:
    box, score = [float(value) for value in detection["bbox"]], float(detection["score"])
    if not all(map(math.isfinite, (*box, score))):
        raise ValueError(f"detection {number} in image {detection['image_id']} has a box or score that is not finite")
    return {**_row(detection, number, ids), "bbox": box, "area": box[2] * box[3], "iscrowd": 0, "score": score}


def _row(source: Mapping[str, Any], number: int, ids: _Ids) -> dict[str, Any]:
    # Ids are given anew: COCO's evaluation marks matches by id, and an object with id 0 would count as missed.
    # An object of an image or category that is not listed gets their number 0: as in COCO's, nobody looks at it.
    images, categories = ids
    image, category = images.get(source["image_id"], 0), categories.get(source["category_id"], 0)
    return {"id": number, "image_id": image, "category_id": category}
