"""Random evaluations against pycocotools: crowds, ties, empty classes, ids of every size, more than 100 detections."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

from mimicdet.inference.coco_metrics import METRIC_NAMES, coco_metrics
from tests.faults.table import Line
from tests.inference.test_coco_metrics import pycocotools

EXAMPLES = 1000
IDS = st.one_of(
    st.integers(0, 5),
    st.integers(1, 10**6),
    st.integers(2**53 - 2, 2**53 + 6),
    st.integers(2**63 - 6, 2**63 - 1),
    st.integers(-(2**63), -1),
)
"""Ids of images and categories; neighbours above 2^53 are one and the same as floats."""
SIDES = st.sampled_from([1, 8, 31, 32, 33, 95, 96, 97, 200])
SCORES = st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 0.9, 1.0])


@st.composite
def cases(draw: st.DrawFn) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Draws a ground truth and detections, of which at least one."""
    images = draw(st.lists(IDS, min_size=1, max_size=4, unique=True))
    categories = draw(st.lists(IDS, min_size=1, max_size=3, unique=True))
    box = st.tuples(st.integers(0, 60), st.integers(0, 60), SIDES, SIDES)
    truth: list[dict[str, Any]] = []
    for image, category, (x, y, w, h), crowd, part in draw(
        st.lists(
            st.tuples(
                st.sampled_from(images),
                st.sampled_from(categories),
                box,
                st.integers(0, 5),
                st.sampled_from([0.5, 1.0]),
            ),
            max_size=8,
        )
    ):
        place = {"id": len(truth) + 1, "image_id": image, "category_id": category}
        truth.append({**place, "bbox": [x, y, w, h], "area": w * h * part, "iscrowd": int(crowd == 0)})
    detections = []
    for image, category, (x, y, w, h), score, near, copies in draw(
        st.lists(
            st.tuples(
                st.sampled_from(images),
                st.sampled_from(categories),
                box,
                SCORES,
                st.one_of(st.none(), st.integers(0, 7)),
                st.sampled_from([1, 1, 1, 1, 2, 130]),
            ),
            min_size=1,
            max_size=8,
        )
    ):
        found = {"image_id": image, "category_id": category, "bbox": [x, y, w, h], "score": score}
        if near is not None and truth:  # on an object, or nearly so
            object_ = truth[near % len(truth)]
            moved = [value + (near % 3) for value in object_["bbox"]]
            found |= {"image_id": object_["image_id"], "category_id": object_["category_id"], "bbox": moved}
        detections += [dict(found) for _ in range(copies)]
    return {
        "images": [{"id": number, "width": 300, "height": 300} for number in images],
        "annotations": truth,
        "categories": [{"id": number, "name": f"class {n}"} for n, number in enumerate(categories)],
    }, detections


def difference(truth: dict[str, Any], detections: list[dict[str, Any]]) -> str | None:
    """Compares our numbers with those of pycocotools, which gets small ids in the same order; None where equal."""
    ours = coco_metrics(truth, detections)
    ranks = {
        key: {number: n for n, number in enumerate(sorted(entry["id"] for entry in truth[key]), start=1)}
        for key in ("images", "categories")
    }

    def small(entry: dict[str, Any]) -> dict[str, Any]:
        image, category = ranks["images"][entry["image_id"]], ranks["categories"][entry["category_id"]]
        return {**entry, "image_id": image, "category_id": category}

    plain = {
        "images": [{**image, "id": ranks["images"][image["id"]]} for image in truth["images"]],
        "annotations": [small(entry) for entry in truth["annotations"]],
        "categories": [{**entry, "id": ranks["categories"][entry["id"]]} for entry in truth["categories"]],
    }
    oracle = pycocotools(plain, [small(entry) for entry in detections])
    mine = np.array([ours[name] for name in METRIC_NAMES])
    if not np.allclose(mine, oracle.stats, rtol=0, atol=1e-9):
        name = METRIC_NAMES[int(np.argmax(np.abs(mine - oracle.stats)))]
        return f"{name} is {ours[name]:.4f}, by pycocotools {oracle.stats[METRIC_NAMES.index(name)]:.4f}"
    for k, category in enumerate(sorted(entry["id"] for entry in truth["categories"])):
        values = oracle.eval["precision"][:, :, k, 0, 2]
        expected = values[values > -1].mean() if (values > -1).any() else -1
        named = next(entry["name"] for entry in truth["categories"] if entry["id"] == category)
        if abs(ours.class_ap[named] - expected) > 1e-9:
            return f"AP of a class is {ours.class_ap[named]:.4f}, by pycocotools {expected:.4f}"
    return None


def evaluations(*, share: float, seed: int, examples: int = EXAMPLES) -> Iterator[Line]:
    """Yields the line of all evaluations; of those that differ the simplest one is told."""
    line, began = Line("evaluations against pycocotools"), time.perf_counter()

    @seeded(seed)
    @settings(
        max_examples=max(1, round(examples * share)),
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def compare(case: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
        line.tried += not line.failures  # what follows the first failure makes it simpler
        try:
            found = difference(*case)
        except Exception as error:
            found = f"{type(error).__name__} {error}"
        if found is not None:
            line.failures[:] = [f"other numbers: {found} for {str(case)[:400]}"]
            raise AssertionError
        line.right += not line.failures

    with contextlib.suppress(AssertionError):
        compare()
    line.seconds = time.perf_counter() - began
    yield line
