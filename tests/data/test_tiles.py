"""Tiles: they cover the image, and what lies whole in one of them comes back once."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import nms

from mimicdet.data import tiles
from mimicdet.data.tiles import Tiles, Window, merge_tile_detections, tile_windows, tiles_of
from mimicdet.errors import UserError

sizes = st.integers(1, 300)


@given(height=sizes, width=sizes, tile=st.integers(1, 120), overlap=st.floats(0, 0.9))
def test_windows_cover_the_image_in_full_tiles_that_overlap(height: int, width: int, tile: int, overlap: float):
    windows = tile_windows(height, width, tile, overlap)
    if len(windows) > 2000:
        return
    covered = np.zeros((height, width), bool)
    for x1, y1, x2, y2 in windows:
        assert (x2 - x1, y2 - y1) == (min(tile, width), min(tile, height))
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
        covered[y1:y2, x1:x2] = True
    assert covered.all()
    assert len(set(windows)) == len(windows)
    for axis in (0, 1):
        starts = sorted({window[axis] for window in windows})
        for a, b in pairwise(starts):
            assert a + tile - b >= min(int(tile * overlap), tile - 1)


def test_windows_of_an_aerial_image():
    assert tile_windows(400, 900, 400, 0.25) == [(0, 0, 400, 400), (250, 0, 650, 400), (500, 0, 900, 400)]
    assert tile_windows(300, 200, 400) == [(0, 0, 200, 300)]


@pytest.mark.parametrize(("tile", "overlap"), [(0, 0.2), (10, 1.0), (10, -0.1)])
def test_windows_out_of_range_are_refused(tile: int, overlap: float):
    with pytest.raises(ValueError, match="overlap in"):
        tile_windows(100, 100, tile, overlap)


def seen_in_tiles(boxes: torch.Tensor, labels: torch.Tensor, windows: list[Window]) -> list[tuple]:
    """What a perfect detector finds in each tile: the visible part of every object that is visible to a fifth."""
    parts = []
    for n, window in enumerate(windows):
        corner, limit = torch.tensor(window[:2]).repeat(2), torch.tensor(window, dtype=boxes.dtype)
        clipped = torch.cat([boxes[:, :2].maximum(limit[:2]), boxes[:, 2:].minimum(limit[2:])], 1)
        area = (clipped[:, 2:] - clipped[:, :2]).clamp(min=0).prod(1)
        visible = area >= 0.2 * (boxes[:, 2:] - boxes[:, :2]).prod(1)
        scores = torch.linspace(0.6, 0.9, len(boxes))[visible] + 0.01 * n / len(windows)
        parts.append((clipped[visible] - corner, scores, labels[visible]))
    return parts


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), width=st.integers(90, 400), height=st.integers(90, 400))
def test_objects_smaller_than_the_overlap_come_back_once_and_whole(seed: int, width: int, height: int):
    """Objects that do not overlap, all over the image, on tiles of 100 with at least 40 in common."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(0, height - 45, 45), torch.arange(0, width - 45, 45), indexing="ij")
    corner = torch.stack([x.flatten(), y.flatten()], 1) + torch.rand(x.numel(), 2, generator=generator) * 5
    boxes = torch.cat([corner, corner + 20 + torch.rand(x.numel(), 2, generator=generator) * 18], 1).double()
    labels = torch.randint(0, 3, (len(boxes),), generator=generator)
    windows = tile_windows(height, width, 100, 0.4)
    found, scores, classes = merge_tile_detections(
        seen_in_tiles(boxes, labels, windows), windows, height, width, nms_iou=0.6
    )
    assert (scores.diff() <= 0).all()
    order = torch.tensor(sorted(range(len(found)), key=lambda i: found[i, [1, 0]].round().tolist()), dtype=torch.int64)
    expected = torch.tensor(sorted(range(len(boxes)), key=lambda i: boxes[i, [1, 0]].round().tolist()))
    torch.testing.assert_close(found[order], boxes[expected])
    assert classes[order].tolist() == labels[expected].tolist()


def test_a_whole_object_close_to_the_edges_of_all_its_tiles_still_covers_its_parts():
    windows = tile_windows(160, 160, 100, 0.4)
    assert windows[:2] == [(0, 0, 100, 100), (60, 0, 160, 100)]
    boxes, labels = torch.tensor([[61.0, 40, 98.5, 70]]).double(), torch.tensor([0])
    parts = seen_in_tiles(boxes, labels, windows)
    assert [len(part[1]) for part in parts] == [1, 1, 1, 1], "the lower tiles see a third of it"
    found, _, _ = merge_tile_detections(parts, windows, 160, 160, nms_iou=0.6)
    torch.testing.assert_close(found, boxes)


def literal_merge(parts: list[tuple], windows: list[Window], height: int, width: int, nms_iou: float) -> list[tuple]:
    """Object by object, from the description alone."""
    everything = []
    for t, ((x1, y1, x2, y2), (boxes, scores, labels)) in enumerate(zip(windows, parts, strict=True)):
        for box, score, label in zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True):
            a, b, c, d = box[0] + x1, box[1] + y1, box[2] + x1, box[3] + y1
            near = max(2, 0.01 * max(x2 - x1, y2 - y1))
            cut = (
                (x1 != 0 and abs(a - x1) <= near)
                or (y1 != 0 and abs(b - y1) <= near)
                or (x2 != width and abs(c - x2) <= near)
                or (y2 != height and abs(d - y2) <= near)
            )
            everything.append((t, cut, (a, b, c, d), score, label))

    def area(p: tuple) -> float:
        return (p[2] - p[0]) * (p[3] - p[1])

    def inside(p: tuple, q: tuple) -> float:
        overlap = max(0, min(p[2], q[2]) - max(p[0], q[0])) * max(0, min(p[3], q[3]) - max(p[1], q[1]))
        return overlap / area(p)

    left = [
        (box, score, label)
        for t, cut, box, score, label in everything
        if not cut
        or not any(
            u != t
            and area(other) > area(box)
            and other_label == label
            and other_score >= 0.5 * score
            and inside(box, other) >= 0.7
            for u, _, other, other_score, other_label in everything
        )
    ]
    kept = []
    for label in {entry[2] for entry in left}:
        own = [entry for entry in left if entry[2] == label]
        for i in nms(*(torch.tensor([e[k] for e in own], dtype=torch.float64) for k in (0, 1)), nms_iou).tolist():
            kept.append(own[i])
    return sorted(kept, key=lambda entry: -entry[1])


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), rows=st.sampled_from([1, 3, 512]))
def test_equals_the_literal_version_on_random_boxes(seed: int, rows: int):
    generator = torch.Generator().manual_seed(seed)
    windows = tile_windows(150, 220, 100, 0.3)
    double = {"generator": generator, "dtype": torch.float64}
    parts = []
    for x1, y1, x2, y2 in windows:
        n = int(torch.randint(0, 12, (), generator=generator))
        limit = torch.tensor([x2 - x1, y2 - y1])
        corner = torch.rand(n, 2, **double) * 1.1 * limit - 5
        boxes = torch.cat([corner, corner + 5 + torch.rand(n, 2, **double) * 60], 1)
        boxes = torch.cat([boxes[:, :2].clamp(min=0).minimum(limit - 1), boxes[:, 2:].minimum(limit).clamp(min=1)], 1)
        boxes[:, 2:] = boxes[:, 2:].maximum(boxes[:, :2] + 1)
        parts.append((boxes, torch.rand(n, **double), torch.randint(0, 2, (n,), generator=generator)))
    expected = literal_merge(parts, windows, 150, 220, 0.5)
    original, tiles._ROWS = tiles._ROWS, rows
    try:
        boxes, scores, labels = merge_tile_detections(parts, windows, 150, 220, nms_iou=0.5)
    finally:
        tiles._ROWS = original
    assert labels.tolist() == [entry[2] for entry in expected]
    torch.testing.assert_close(
        boxes, torch.tensor([entry[0] for entry in expected], dtype=torch.float64).reshape(-1, 4)
    )
    torch.testing.assert_close(scores, torch.tensor([entry[1] for entry in expected], dtype=torch.float64))


def test_nothing_found():
    empty = (torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    windows = tile_windows(100, 150, 100)
    boxes, scores, labels = merge_tile_detections([empty] * len(windows), windows, 100, 150, nms_iou=0.6)
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))


def test_absurdly_many_tiles_are_refused_at_once():
    with pytest.raises(UserError, match=r"would be cut into .* tiles; give a larger --tile"):
        tile_windows(10**9, 10**9, 1)
    assert len(tile_windows(1000, 1000, 1)) == 1_000_000


@pytest.mark.parametrize(("tile", "overlap"), [(31, 0.25), (0, 0.25), (True, 0.25), (32, 0.91), (32, float("nan"))])
def test_a_users_tiles_are_neither_tiny_nor_almost_the_same(tile: int, overlap: float):
    with pytest.raises(UserError, match=r"tile must be .* from 32 up|overlap must be .* to 0\.9"):
        tiles_of(tile, overlap)


def test_a_users_tiles_may_be_larger_than_any_image():
    assert tiles_of(32, 0.9) == Tiles(32, 0.9)
    for tile in (2**40, 10**400):
        found = tiles_of(tile, 0.25)
        assert found is not None
        assert found.windows(30, 2**20) == [(0, 0, 2**20, 30)]
