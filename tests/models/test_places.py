"""Places of positions: against their definition, cell by cell."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicdet.models.anchors import square_anchors
from mimicdet.models.detector import Places
from mimicdet.models.pyramid import level_mask

STRIDES = [8, 16, 32, 64, 128]
LEVELS = (3, 4, 5, 6, 7)


def make_places(shapes: list[tuple[int, int]]) -> Places:
    """MimicDet's: one square anchor a cell, four cells wide."""
    places: Places = square_anchors(LEVELS, side_in_cells=4)(shapes)
    return places


def shapes_of(height: int, width: int) -> list[tuple[int, int]]:
    """P3..P7 of a canvas whose sides are multiples of 32: P6 and P7 come from stride-2 convolutions."""
    shapes = [(height // s, width // s) for s in (8, 16, 32)]
    for _ in range(2):
        shapes.append(((shapes[-1][0] + 1) // 2, (shapes[-1][1] + 1) // 2))
    return shapes


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 9), columns=st.integers(1, 9))
def test_every_position_literally(rows: int, columns: int):
    shapes = shapes_of(32 * rows, 32 * columns)
    places = make_places(shapes)
    i = 0
    for level, (h, w) in enumerate(shapes):
        stride, begin = STRIDES[level], i
        assert (places.first[level], places.rows[level], places.columns[level]) == (begin, h, w)
        for y in range(h):
            for x in range(w):
                row = (places.level[i], places.y[i], places.x[i])
                assert tuple(int(v) for v in row) == (level, y, x)
                assert places.stride[i] == stride
                left, top = x * stride + stride / 2 - 2 * stride, y * stride + stride / 2 - 2 * stride
                assert places.anchors[i].tolist() == [left, top, left + 4 * stride, top + 4 * stride]
                i += 1
    assert len(places.level) == i


def test_sides_and_count_of_the_paper():
    places = make_places(shapes_of(800, 1280))
    assert len(places.anchors) == 21_330
    assert (places.anchors[places.first, 2] - places.anchors[places.first, 0]).tolist() == [32, 64, 128, 256, 512]
    assert places.level.dtype == places.first.dtype == torch.int64
    assert places.anchors.dtype == places.stride.dtype == torch.float32


@settings(max_examples=25, deadline=None)
@given(sizes=st.lists(st.tuples(st.integers(1, 160), st.integers(1, 224)), min_size=1, max_size=4))
def test_valid_are_the_cells_that_overlap_the_image(sizes: list[tuple[int, int]]):
    shapes = shapes_of(160, 224)
    places = make_places(shapes)
    valid = places.valid(torch.tensor(sizes))
    for row, (height, width) in zip(valid.tolist(), sizes, strict=True):
        expected = [
            y * stride < height and x * stride < width
            for (h, w), stride in zip(shapes, STRIDES, strict=True)
            for y in range(h)
            for x in range(w)
        ]
        assert row == expected
    masks = [level_mask(torch.tensor(sizes), 3 + i, shape).flatten(1) for i, shape in enumerate(shapes)]
    assert torch.equal(valid, torch.cat(masks, dim=1)), "the pyramid calls the same cells padding"


def test_the_whole_canvas_is_valid():
    places = make_places(shapes_of(160, 224))
    assert places.valid(torch.tensor([[160, 224]])).all()
    assert places.valid(torch.tensor([[1, 1]])).sum() == 5, "an image of one pixel has a cell on every level"


def test_levels_and_strides_must_be_as_many():
    with pytest.raises(ValueError, match="zip"):
        make_places([(4, 4), (2, 2)])
