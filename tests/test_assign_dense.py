"""Assignments against torchvision's own code (RetinaNet, FCOS) and a literal version from the paper (ATSS)."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.models.detection.fcos import FCOS
from torchvision.ops import box_iou

from mimicdet.assign import LEFT_OUT, NO_OBJECT, Match, by_center, by_overlap, by_statistics, match_objects
from mimicdet.families.retinanet import retina_anchors
from mimicdet.models.anchors import square_anchors
from mimicdet.models.detector import Places
from mimicdet.ops.boxes import intersection_over_first

LEVELS = (3, 4, 5, 6, 7)
CANVAS = (128, 160)
SHAPES = [(-(-CANVAS[0] // 2**l), -(-CANVAS[1] // 2**l)) for l in LEVELS]
RETINA = retina_anchors(LEVELS)(SHAPES, CANVAS)
FCOS_POINTS = square_anchors(LEVELS, side_in_cells=1, convention="corner")(SHAPES, CANVAS)
ATSS = square_anchors(LEVELS, side_in_cells=8)(SHAPES, CANVAS)


@st.composite
def objects(draw: st.DrawFn) -> Tensor:
    """(M, 4) of any size, some smaller than a cell, some that stick out of the canvas."""
    rows = []
    for _ in range(draw(st.integers(1, 6))):
        w, h = (math.exp(draw(st.floats(0.7, 5.2))) for _ in range(2))
        x, y = draw(st.floats(-w / 2, CANVAS[1] - w / 2)), draw(st.floats(-h / 2, CANVAS[0] - h / 2))
        rows.append([x, y, x + w, y + h])
    return torch.tensor(rows)


def everywhere(places: Places) -> Tensor:
    return torch.ones(len(places.level), dtype=torch.bool)


@settings(max_examples=100, deadline=None)
@given(objects())
def test_by_overlap_is_torchvisions_matcher(boxes: Tensor) -> None:
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    expected = matcher(box_iou(boxes, RETINA.anchors))
    if (box_iou(boxes, RETINA.anchors).amax(1) == 0).any():  # there torchvision takes every anchor for the best one
        return
    found = by_overlap(RETINA, everywhere(RETINA), boxes, positive_iou=0.5, negative_iou=0.4)
    assert matcher.BETWEEN_THRESHOLDS == LEFT_OUT
    assert matcher.BELOW_LOW_THRESHOLD == NO_OBJECT
    torch.testing.assert_close(found, expected)


@settings(max_examples=100, deadline=None)
@given(objects())
def test_by_center_is_torchvisions_fcos(boxes: Tensor) -> None:
    """What torchvision matches, read off the targets that it hands to the head's loss."""
    seen: list[Tensor] = []

    class Head:
        def compute_loss(self, targets: Any, outputs: Any, anchors: Any, matched: list[Tensor]) -> None:
            seen.extend(matched)

    class Detector:
        center_sampling_radius = 1.5
        head = Head()

    targets = [{"boxes": boxes, "labels": torch.zeros(len(boxes), dtype=torch.int64)}]
    FCOS.compute_loss(Detector(), targets, {}, [FCOS_POINTS.anchors], [h * w for h, w in SHAPES])  # type: ignore[arg-type]
    found = by_center(FCOS_POINTS, everywhere(FCOS_POINTS), boxes, radius=1.5)
    torch.testing.assert_close(found, seen[0])


def literal_atss(places: Places, valid: Tensor, boxes: Tensor, candidates: int) -> list[int]:
    """Algorithm 1 of the paper, an object and an anchor at a time."""
    best: dict[int, tuple[float, int]] = {}
    overlap = box_iou(boxes, places.anchors)
    for k, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        chosen: list[int] = []
        for level in range(len(LEVELS)):
            rows = [a for a in range(len(valid)) if places.level[a] == level and valid[a]]
            apart = {}
            for a in rows:
                left, top, right, bottom = places.anchors[a].tolist()
                apart[a] = ((left + right - x1 - x2) / 2) ** 2 + ((top + bottom - y1 - y2) / 2) ** 2
            chosen += sorted(rows, key=apart.__getitem__)[:candidates]
        values = overlap[k, chosen].double()
        threshold = values.mean() + (values.std() if len(values) > 1 else 0)
        for a in chosen:
            left, top, right, bottom = places.anchors[a].tolist()
            x, y = (left + right) / 2, (top + bottom) / 2
            inside = min(x - x1, y - y1, x2 - x, y2 - y) > 0.01
            if inside and overlap[k, a] >= threshold and overlap[k, a] > best.get(a, (-1.0, 0))[0]:
                best[a] = (float(overlap[k, a]), k)
    return [best[a][1] if a in best else NO_OBJECT for a in range(len(valid))]


@settings(max_examples=30, deadline=None)
@given(objects(), st.integers(1, 9), st.integers(0, 2**20))
def test_by_statistics_is_the_papers_algorithm(boxes: Tensor, candidates: int, seed: int) -> None:
    """Objects are moved by odd amounts, so that no two anchors are equally far from a centre."""
    boxes = boxes + torch.rand(len(boxes), 1, generator=torch.Generator().manual_seed(seed)) * 0.37
    valid = ATSS.valid(torch.tensor([[100, 130]]))[0]
    found = by_statistics(ATSS, valid, boxes, candidates=candidates)
    expected = torch.tensor(literal_atss(ATSS, valid, boxes, candidates))
    # Within rounding of the threshold either may be right
    assert (found != expected).sum() <= 1


RULES: list[tuple[Match, Places]] = [
    (partial(by_overlap, positive_iou=0.5, negative_iou=0.4), RETINA),
    (partial(by_center, radius=1.5), FCOS_POINTS),
    (partial(by_statistics, candidates=9), ATSS),
]


@pytest.mark.parametrize(("rule", "places"), RULES)
def test_batches_padding_and_crowd_regions(rule: Match, places: Places) -> None:
    first = [[10.0, 10, 50, 60], [80, 20, 150, 120], [0, 0, 160, 128]]
    boxes = torch.tensor([first, [[30, 30, 90, 90], [0] * 4, [0] * 4]])
    labels = torch.tensor([[0, 1, 0], [2, -1, -1]])
    crowd = torch.tensor([[False, False, True], [False, False, False]])
    valid = places.valid(torch.tensor([[128, 160], [96, 100]]))
    found = match_objects(rule, places, valid, boxes, labels, crowd)
    assert (found[~valid] == LEFT_OUT).all()
    covered = intersection_over_first(places.anchors, boxes[0, 2:])[:, 0] >= 0.5
    assert set(found[0].tolist()) <= {LEFT_OUT, NO_OBJECT, 0, 1}  # a crowd region is never a target
    assert (found[0][covered] != NO_OBJECT).all()
    alone = rule(places, valid[0], boxes[0, :2])
    torch.testing.assert_close(found[0][alone >= 0], alone[alone >= 0])
    assert set(found[1][valid[1]].tolist()) >= {NO_OBJECT, 0}
    nothing = match_objects(rule, places, valid, boxes[:, :0], labels[:, :0], crowd[:, :0])
    assert (nothing[valid] == NO_OBJECT).all()
