"""Matching against COCO's own evaluation, and the file it is kept in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicdet.errors import UserError
from mimicdet.inference.coco_metrics import coco_metrics
from mimicdet.lab.study.judged import Judged, judge


def draw(
    seed: int, *, images: int = 6, noise: float = 6.0, crowd: float = 0.1
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Objects of three classes, and detections near most of them besides some anywhere; scores of two decimals tie."""
    rng = np.random.default_rng(seed)
    annotations, detections = [], []
    for i in range(images):
        for _ in range(rng.integers(0, 7)):
            x, y, w, h = rng.uniform([0, 0, 10, 10], [150, 150, 60, 60])
            category = int(rng.integers(1, 4))
            annotations.append({"id": len(annotations) + 1, "image_id": i * 7, "category_id": category,
                                "bbox": [x, y, w, h], "area": w * h, "iscrowd": int(rng.random() < crowd)})  # fmt: skip
            for _ in range(rng.integers(0, 3)):
                box = np.array([x, y, w, h]) + rng.normal(0, noise, 4)
                box[2:] = box[2:].clip(2)
                detections.append({"image_id": i * 7, "category_id": category, "bbox": box.tolist(),
                                   "score": round(float(rng.random()), 3)})  # fmt: skip
        for _ in range(rng.integers(0, 4)):
            detections.append({"image_id": i * 7, "category_id": int(rng.integers(1, 4)),
                               "bbox": rng.uniform([0, 0, 10, 10], [150, 150, 60, 60]).tolist(),
                               "score": round(float(rng.random()), 3)})  # fmt: skip
    truth = {
        "images": [{"id": i * 7, "file_name": f"{i:04}.jpg"} for i in range(images)],
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
def test_a_saved_one_is_the_same(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    truth, detections = draw(seed)
    judged, file = judge(truth, detections), tmp_path_factory.mktemp("judged") / "judged.npz"
    judged.save(file)
    loaded = Judged.load(file)
    assert loaded.images == judged.images
    for one, other in zip(judged.classes, loaded.classes, strict=True):
        for name in ("image", "hit", "counts", "objects"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).dtype == getattr(other, name).dtype
    times = np.random.default_rng(seed).integers(0, 3, judged.images)
    assert loaded.ap(times) == judged.ap(times)


def test_nothing_found_is_saved(tmp_path: Path) -> None:
    judge(draw(0)[0], []).save(tmp_path / "judged.npz")
    assert Judged.load(tmp_path / "judged.npz").ap() == 0


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "judged.npz"
    with pytest.raises(UserError, match=r"judged\.npz cannot be read"):
        Judged.load(file)
    judge(*draw(0)).save(file)
    whole = file.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"judged\.npz cannot be read"):
            Judged.load(file)
