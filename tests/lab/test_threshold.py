"""The score with the best F1."""

from __future__ import annotations

from typing import Any

import pytest

from mimicdet.lab.demo import best_threshold

TRUTH: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "categories": [{"id": 1, "name": "tree"}],
    "annotations": [{"id": k, "image_id": 1, "category_id": 1, "bbox": [20 * k, 0, 10, 10]} for k in range(4)],
}


def found(score: float, x: float) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 1, "bbox": [x, 0, 10, 10], "score": score}


def test_f1_is_best_between_hits_and_false_ones() -> None:
    hits = [found(0.9, 0), found(0.8, 20), found(0.62, 40)]
    false = [found(score, 200) for score in (0.55, 0.5, 0.4, 0.3)]
    # from 0.60 on: 3 hits of 3 detections and 4 trees, F1 6/7; with the last tree too, from 0.25 on: 8/12
    assert best_threshold(TRUTH, [*false, *hits, found(0.28, 60)]) == pytest.approx(0.6)


def test_a_second_box_on_a_tree_is_false() -> None:
    twice = [found(0.9, 0), found(0.9, 20), found(0.9, 40), found(0.9, 60), found(0.7, 1), found(0.7, 21)]
    assert best_threshold(TRUTH, twice) == pytest.approx(0.75)


def test_nothing_found_is_the_lowest() -> None:
    assert best_threshold(TRUTH, []) == pytest.approx(0.05)
