"""Whether there is anything to learn, and how much of it is too small, against the transform of training itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from mimicdet.data.dataset import Category, DetectionDataset, ImageRecord
from mimicdet.data.targets import require_targets
from mimicdet.data.transform import TrainTransform
from tests.fakes.small_sets import error_of


def split_of(*boxes: tuple[float, ...], crowd: bool = False, size: tuple[int, int] = (300, 400)) -> DetectionDataset:
    n = len(boxes)
    objects = np.array(boxes, np.float64).reshape(-1, 4), np.zeros(n, np.int64), np.full(n, crowd), np.ones(n)
    record = ImageRecord(1, Path("a.png"), *size, *objects)
    return DetectionDataset(Path("cells"), "train", "coco", (Category(1, "cat"),), (record,))


SIDES = {"shorter_side": 150, "longer_side": 1000}


def test_nothing_to_learn() -> None:
    message = error_of(require_targets, split_of(), **SIDES, zoom=1.0)
    assert "cells: the split 'train' has no object; add objects, or train on another split" in message
    message = error_of(require_targets, split_of((0, 0, 9, 9), crowd=True), **SIDES, zoom=1.0)
    assert "its 1 regions are marked as crowd" in message
    small = split_of((0, 0, 1.5, 50), (0, 0, 50, 1.9))
    assert "at 150 x 1000 pixels" in error_of(require_targets, small, **SIDES, zoom=1.0)
    assert "all 2 have a side below one pixel" in error_of(require_targets, small, **SIDES, zoom=0.5)
    assert "1 of 2 objects" in (require_targets(small, **SIDES, zoom=1.2) or "")
    assert require_targets(small, **SIDES, zoom=2.0) is None


@given(st.tuples(*[st.floats(0.1, 4)] * 2), st.integers(100, 400), st.integers(20, 200))
def test_it_is_the_rule_of_the_transform(sides: tuple[float, float], width: int, shorter_side: int) -> None:
    size = (120, width)
    how = {"shorter_side_sampling": "choice", "scale_jitter": (1.0, 1.0), "color_jitter": 0.0}
    flips = {"horizontal_flip": 0.0, "vertical_flip": 0.0, "quarter_turn": 0.0}
    transform = TrainTransform(shorter_side=(shorter_side,), longer_side=300, **how, **flips)
    data = split_of((0, 0, *sides), (0, 0, 90, 90), size=size)
    record = data.images[0]
    plan = transform.plan(size, torch.Generator())
    pixels = np.zeros((*size, 3), np.uint8)
    _, _, labels, _ = plan.apply(pixels, record.boxes, record.labels, record.crowd)
    told = require_targets(data, shorter_side=shorter_side, longer_side=300, zoom=1.0)
    assert (len(labels) == 1) == (told is not None)
