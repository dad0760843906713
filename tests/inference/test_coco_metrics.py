"""COCO's numbers: against the published ones, against pycocotools, and in the corners."""

from __future__ import annotations

import copy
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mimicdet.inference.coco_metrics import METRIC_NAMES, coco_metrics

FIXTURE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "coco_eval_fixture"

GOLDEN = [
    0.5045806987249628,
    0.6969727247299577,
    0.5729816669904824,
    0.5856257209410443,
    0.5193996948036719,
    0.5013978986347466,
    0.38681277964578054,
    0.5936795762842003,
    0.595352982877607,
    0.6398109626113442,
    0.5664205978994309,
    0.5642905982905982,
]


def pycocotools(truth: dict[str, Any], detections: list[dict[str, Any]], most: int = 100) -> COCOeval:
    with redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = copy.deepcopy(truth)
        ground_truth.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(copy.deepcopy(detections)), "bbox")
        evaluation.params.maxDets = [1, 10, most]
        evaluation.evaluate()
        evaluation.accumulate()
        if most == 100:
            evaluation.summarize()
    return evaluation


def random_case(seed: int, *, images: int = 6, classes: int = 4) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of all sizes, some crowded; detections near them, doubled, displaced, and of the wrong class."""
    rng = np.random.default_rng(seed)
    image_ids = [0, *rng.choice(np.arange(1, 1000), images - 1, replace=False).tolist()]
    category_ids = rng.choice(np.arange(0, 90), classes, replace=False).tolist()
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for image_id in image_ids:
        for _ in range(int(rng.integers(0, 8))):
            size = float(rng.choice([12.0, 50.0, 160.0]))
            box = np.array([*rng.uniform(0, 300, 2), *rng.uniform(0.6 * size, 1.4 * size, 2)])
            category_id = int(rng.choice(category_ids[:-1]))  # the last class never has an object
            crowd = int(rng.random() < 0.15)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": box.tolist(),
                    "area": float(box[2] * box[3] * rng.uniform(0.4, 1)),
                    "iscrowd": crowd,
                }
            )
            for _ in range(int(rng.integers(0, 4))):
                moved = box + rng.normal(0, 0.06 * size, 4)
                moved[2:] = np.maximum(moved[2:], 1)
                named = category_id if rng.random() < 0.9 else int(rng.choice(category_ids))
                # Few different scores, so that there are ties to break.
                score = float(np.round(rng.random(), 1))
                detections.append({"image_id": image_id, "category_id": named, "bbox": moved.tolist(), "score": score})
    truth = {
        "images": [{"id": i, "width": 640, "height": 480} for i in image_ids],
        "annotations": annotations,
        "categories": [{"id": c, "name": f"class {c}"} for c in category_ids],
    }
    return truth, detections


@pytest.mark.skipif(not FIXTURE.is_dir(), reason=f"the golden evaluation fixture {FIXTURE} is absent")
def test_golden_fixture_gives_the_twelve_published_numbers():
    truth = json.loads((FIXTURE / "instances_val2014_100.json").read_text())
    detections = json.loads((FIXTURE / "instances_val2014_fakebbox100_results.json").read_text())
    metrics = coco_metrics(truth, detections)
    assert tuple(metrics.numbers) == METRIC_NAMES
    np.testing.assert_allclose([metrics[name] for name in METRIC_NAMES], GOLDEN, rtol=0, atol=1e-10)
    assert (metrics.images, metrics.objects, metrics.detections) == (100, 839 - 9, 734)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_equals_pycocotools(seed: int):
    truth, detections = random_case(seed)
    if not detections:
        return
    before = copy.deepcopy((truth, detections))
    metrics = coco_metrics(truth, detections)
    assert (truth, detections) == before, "the arguments were changed"
    oracle = pycocotools(truth, detections)
    np.testing.assert_allclose([metrics[n] for n in METRIC_NAMES], oracle.stats, rtol=0, atol=1e-12)
    precision = oracle.eval["precision"]
    for k, category_id in enumerate(oracle.params.catIds):
        all_thresholds, at_half = precision[:, :, k, 0, 2], precision[0, :, k, 0, 2]
        for values, ours in ((all_thresholds, metrics.class_ap), (at_half, metrics.class_ap50)):
            expected = values[values > -1].mean() if (values > -1).any() else -1
            assert ours[f"class {category_id}"] == pytest.approx(expected, abs=1e-12)


def test_order_of_categories_is_kept_and_each_ap_is_its_own_class():
    box = [10.0, 10.0, 50.0, 50.0]
    truth = {
        "images": [{"id": 0}],
        "annotations": [
            {"id": 0, "image_id": 0, "category_id": 7, "bbox": box},
            {"id": 1, "image_id": 0, "category_id": 2, "bbox": box},
        ],
        "categories": [{"id": 7, "name": "found"}, {"id": 2, "name": "missed"}, {"id": 5, "name": "absent"}],
    }
    metrics = coco_metrics(truth, [{"image_id": 0, "category_id": 7, "bbox": box, "score": 0.5}])
    assert list(metrics.class_ap.items()) == [("found", 1.0), ("missed", 0.0), ("absent", -1.0)]
    assert metrics["AP"] == 0.5
    assert metrics["APs"] == -1, "50 x 50 without a recorded area counts as medium"
    assert metrics["APm"] == 0.5


def test_more_detections_than_coco_allows():
    """150 objects in one image: COCO's 100 detections find two thirds of them, 300 find all."""
    boxes = [[20.0 * (i % 15), 20.0 * (i // 15), 15.0, 15.0] for i in range(150)]
    truth = {
        "images": [{"id": 3}],
        "annotations": [
            {"image_id": 3, "category_id": 1, "bbox": box, "id": i + 1, "area": 225, "iscrowd": 0}
            for i, box in enumerate(boxes)
        ],
        "categories": [{"id": 1, "name": "tree"}],
    }
    detections = [{"image_id": 3, "category_id": 1, "bbox": b, "score": 1 - i / 1000} for i, b in enumerate(boxes)]
    assert coco_metrics(truth, detections)["AR100"] == pytest.approx(2 / 3)
    metrics = coco_metrics(truth, detections, limits=(1, 10, 300))
    assert metrics["AP50"] == pytest.approx(1)
    assert metrics["AR100"] == pytest.approx(1)
    oracle = pycocotools(truth, detections, 300)
    assert metrics["AP"] == pytest.approx(oracle.eval["precision"][:, :, 0, 0, 2].mean(), abs=1e-12)


@pytest.mark.parametrize("case", ["no detections", "no objects", "neither", "only crowd", "no images", "no classes"])
def test_corners_give_zeros_or_minus_ones_and_valid_json(case: str):
    truth, detections = random_case(5)
    if case in ("no detections", "neither"):
        detections = []
    if case in ("no objects", "neither"):
        truth["annotations"] = []
    if case == "only crowd":
        truth["annotations"] = [{**a, "iscrowd": 1} for a in truth["annotations"]]
    if case in ("no images", "no classes"):
        truth["annotations"], detections = [], []
        truth["images" if case == "no images" else "categories"] = []
    metrics = coco_metrics(truth, detections)
    expected = 0.0 if case == "no detections" else -1.0
    assert all(metrics[name] == expected for name in METRIC_NAMES)
    assert metrics.objects == (
        len(truth["annotations"]) - sum(a["iscrowd"] for a in truth["annotations"]) if case == "no detections" else 0
    )
    text = json.dumps(metrics.to_json(), allow_nan=False)
    assert set(METRIC_NAMES) < set(json.loads(text))


def test_two_categories_of_one_name_stay_apart():
    truth = {
        "images": [{"id": 1}],
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}, {"id": 3, "name": "b"}],
    }
    assert list(coco_metrics(truth, []).class_ap) == ["a (id 1)", "a (id 2)", "b"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 5}, "image_id 5"),
        ({"category_id": 9}, "category_id 9"),
        ({"score": float("nan")}, "not finite"),
        ({"bbox": [0, 0, float("inf"), 1]}, "not finite"),
    ],
)
def test_detections_that_cannot_be_counted_are_refused(change: dict[str, Any], message: str):
    truth = {"images": [{"id": 1}], "annotations": [], "categories": [{"id": 1, "name": "a"}]}
    with pytest.raises(ValueError, match=message):
        coco_metrics(truth, [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5, **change}])


def test_limits_must_ascend():
    with pytest.raises(ValueError, match="ascending"):
        coco_metrics({"images": [], "annotations": [], "categories": []}, [], limits=(1, 10, 10))


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]):
    coco_metrics(*random_case(1))
    assert capfd.readouterr() == ("", "")


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), base=st.sampled_from([-(2**63), -5, 2**24, 2**53, 2**62, 2**63 - 2001]))
def test_ids_of_any_size_change_no_bit(seed: int, base: int):
    truth, detections = random_case(seed)
    moved = copy.deepcopy((truth, detections))
    for entry in (*moved[0]["images"], *moved[0]["categories"]):
        entry["id"] += base
    for row in (*moved[0]["annotations"], *moved[1]):
        row["image_id"] += base
        row["category_id"] += base
    assert coco_metrics(*moved) == coco_metrics(truth, detections)
