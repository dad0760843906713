"""Matching against COCO's own evaluation, and the file it is kept in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicdet.inference.coco_metrics import coco_metrics
from mimicdet.lab.study.judged import judge, pack, unpack


def draw(
    seed: int, *, images: int = 6, noise: float = 6.0, crowd: float = 0.1
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of three classes, and detections near most of them besides some anywhere; scores of two decimals tie."""
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []

    def detect(image: int, category: int, box: np.ndarray) -> None:
        score = round(float(rng.random()), 3)
        detections.append({"image_id": image, "category_id": category, "bbox": box.tolist(), "score": score})

    for i in range(0, 7 * images, 7):
        for _ in range(rng.integers(0, 7)):
            x, y, w, h = rng.uniform([0, 0, 10, 10], [150, 150, 60, 60])
            category = int(rng.integers(1, 4))
            named = {"id": len(annotations) + 1, "image_id": i, "category_id": category}
            annotations.append({**named, "bbox": [x, y, w, h], "area": w * h, "iscrowd": int(rng.random() < crowd)})
            for _ in range(rng.integers(0, 3)):
                box = np.array([x, y, w, h]) + rng.normal(0, noise, 4)
                box[2:] = box[2:].clip(2)
                detect(i, category, box)
        for _ in range(rng.integers(0, 4)):
            detect(i, int(rng.integers(1, 4)), rng.uniform([0, 0, 10, 10], [150, 150, 60, 60]))
    truth = {
        "images": [{"id": i, "file_name": f"{i // 7:04}.jpg"} for i in range(0, 7 * images, 7)],
        "annotations": annotations,
        "categories": [{"id": k, "name": str(k)} for k in (1, 2, 3)],
    }
    return truth, detections


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**30))
def test_ap_is_cocos(seed: int) -> None:
    truth, detections = draw(seed)
    expected = coco_metrics(truth, detections)["AP"]
    assert judge(truth, detections).ap() == pytest.approx(expected, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**30))
def test_an_image_drawn_twice_is_two_images(seed: int) -> None:
    truth, detections = draw(seed)
    times = np.random.default_rng(seed).integers(0, 3, len(truth["images"]))
    many: dict[str, Any] = {"images": [], "annotations": [], "categories": truth["categories"]}
    found = []
    for image, number in zip(truth["images"], times, strict=True):
        for copy in range(number):
            name = 1000 * copy + image["id"]
            many["images"].append({"id": name, "file_name": f"{name}.jpg"})
            many["annotations"] += [
                a | {"image_id": name} for a in truth["annotations"] if a["image_id"] == image["id"]
            ]
            found += [d | {"image_id": name} for d in detections if d["image_id"] == image["id"]]
    # Equal scores of different images may come in another order
    scores = [d["score"] for d in found]
    if len(set(scores)) * max(times.max(), 1) < len(scores):
        return
    expected = coco_metrics(many, found)["AP"]
    assert judge(truth, detections).ap(times) == pytest.approx(expected, abs=0.02)


def test_images_pair_by_their_names_whatever_their_ids() -> None:
    """The same data in another format has other ids, in another order."""
    truth, found = draw(3)
    ids = {image["id"]: 1000 - image["id"] for image in truth["images"]}
    other = {
        **truth,
        "images": [{"id": ids[i["id"]], "file_name": f"val/{i['file_name']}"} for i in reversed(truth["images"])],
        "annotations": [a | {"image_id": ids[a["image_id"]]} for a in truth["annotations"]],
    }
    one, same = judge(truth, found), judge(other, [d | {"image_id": ids[d["image_id"]]} for d in found])
    for a, b in zip(one.classes, same.classes, strict=True):
        np.testing.assert_array_equal(a.objects, b.objects)
        np.testing.assert_array_equal(np.sort(a.image), np.sort(b.image))
    drawn_once = np.eye(one.images, dtype=np.int64)
    assert [one.ap(times) for times in drawn_once] == [same.ap(times) for times in drawn_once]
    assert one.pairs_with(same)
    backwards = {**truth, "images": [i | {"file_name": f"{99 - k}.jpg"} for k, i in enumerate(truth["images"])]}
    assert not one.pairs_with(judge(backwards, found))
    more = {**truth, "images": [*truth["images"], {"id": 5000, "file_name": "empty.jpg"}]}
    assert not one.pairs_with(judge(more, found))


def test_a_hundred_detections_of_a_class_count() -> None:
    truth, _ = draw(0, images=1)
    many = [{"image_id": 0, "category_id": 1, "bbox": [i, 0, 30, 30], "score": 1 - i / 1000} for i in range(150)]
    assert judge(truth, many).ap() == pytest.approx(coco_metrics(truth, many)["AP"], abs=1e-9)


def test_nothing_found_and_nothing_there() -> None:
    truth, _ = draw(0)
    assert judge(truth, []).ap() == 0
    assert judge(truth | {"annotations": []}, []).ap() == -1


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**30))
def test_packed_ones_are_the_same(seed: int) -> None:
    truth, _ = draw(seed)
    results = [judge(truth, draw(seed, noise=noise)[1]) for noise in (6.0, 1.0)] + [judge(truth, [])]
    times = np.random.default_rng(seed).integers(0, 3, results[0].images)
    for judged, same in zip(results, unpack(pack(results)), strict=True):
        assert same.images == judged.images
        for one, other in zip(judged.classes, same.classes, strict=True):
            for name in ("image", "hit", "counts", "objects"):
                assert np.array_equal(getattr(one, name), getattr(other, name))
                assert getattr(one, name).dtype == getattr(other, name).dtype
        assert same.ap(times) == judged.ap(times)


@pytest.mark.parametrize("images", [250, 300])
def test_packed_ones_may_have_many_images(images: int) -> None:
    """The distance from one image to the next is kept in a byte where that is enough."""
    judged = judge(*draw(1, images=images))
    assert max(one.image.max() for one in judged.classes) > images - 20
    (same,) = unpack(pack([judged]))
    for one, other in zip(judged.classes, same.classes, strict=True):
        np.testing.assert_array_equal(one.image, other.image)


def test_what_ap_does_not_depend_on_is_left_out() -> None:
    """Misses behind the last hit, and the order of the misses between two hits."""
    box, nowhere = [0, 0, 30, 30], [90, 90, 5, 5]
    image = {"iscrowd": 0, "area": 900, "bbox": box, "category_id": 1}
    truth = {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(3)],
        "annotations": [{"id": i + 1, "image_id": i, **image} for i in range(3)],
        "categories": [{"id": 1, "name": "1"}],
    }
    found = [(2, nowhere), (0, nowhere), (1, box), (2, nowhere), (1, nowhere), (0, box), (2, nowhere), (0, nowhere)]
    scored = [{"image_id": i, "category_id": 1, "bbox": b, "score": 0.9 - 0.1 * k} for k, (i, b) in enumerate(found)]
    judged = judge(truth, scored)
    assert judged.classes[0].image.tolist() == [0, 2, 1, 1, 2, 0]
    assert judged.classes[0].hit.any(0).tolist() == [False, False, True, False, False, True]
    assert judged.ap() == pytest.approx(coco_metrics(truth, scored)["AP"], abs=1e-9)
