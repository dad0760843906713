"""The score from which on detections are worth drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mimicdet.lab.study.judged import judge

CANDIDATES = tuple(step / 20 for step in range(1, 20))


def best_threshold(ground_truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> float:
    """Returns the score, of 0.05, 0.10 .. 0.95, with the best F1 at an IoU of 0.5; the lowest of equals.

    Choose it on images that are not shown: F1 on the pictured ones would flatter the picture.

    Args:
        ground_truth: a COCO dictionary.
        detections: COCO results.
    """

    def f1(threshold: float) -> float:
        judged = judge(ground_truth, [found for found in detections if found["score"] >= threshold])
        hits = sum(int(one.hit[0].sum()) for one in judged.classes)
        found_or_there = sum(int(one.counts[0].sum() + one.objects.sum()) for one in judged.classes)
        return 2 * hits / max(found_or_there, 1)

    return max(CANDIDATES, key=f1)
