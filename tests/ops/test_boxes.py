"""Boxes: against the published formulas box by box, torchvision, and their own inverses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou, clip_boxes_to_image

from mimicdet.ops.boxes import (
    MAX_LOG_SCALE,
    clip_to_sizes,
    decode_deltas,
    encode_deltas,
    intersection_over_first,
    iou,
)

RAW = (1.0, 1.0, 1.0, 1.0)
HEAD = (0.1, 0.1, 0.2, 0.2)
STDS = st.sampled_from([RAW, HEAD])


def box_lists(*, least_side: int = 1, most: int = 6) -> st.SearchStrategy[Tensor]:
    """(N, 4) float64 boxes with corners on quarter pixels, some wholly outside any image, sides of 0 if allowed."""
    corner, side = st.integers(-800, 2400), st.integers(least_side, 1600)
    one = st.tuples(corner, corner, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
    return st.lists(one, min_size=1, max_size=most).map(lambda boxes: torch.tensor(boxes, dtype=torch.float64) / 4)


def pairs(*, least_side: int = 1) -> st.SearchStrategy[tuple[Tensor, Tensor]]:
    """Two equally long lists of boxes."""
    one = box_lists(least_side=least_side)
    return st.tuples(one, one).map(lambda two: tuple(boxes[: min(map(len, two))] for boxes in two))


@settings(max_examples=60, deadline=None)
@given(both=pairs(), std=STDS)
def test_encode_is_faster_rcnns_formula(both: tuple[Tensor, Tensor], std: tuple[float, ...]):
    targets, boxes = both
    for target, box, delta in zip(
        targets.tolist(), boxes.tolist(), encode_deltas(targets, boxes, std=std).tolist(), strict=True
    ):
        w, h, tw, th = box[2] - box[0], box[3] - box[1], target[2] - target[0], target[3] - target[1]
        dx = ((target[0] + tw / 2) - (box[0] + w / 2)) / w
        dy = ((target[1] + th / 2) - (box[1] + h / 2)) / h
        expected = [dx / std[0], dy / std[1], math.log(tw / w) / std[2], math.log(th / h) / std[3]]
        assert delta == pytest.approx(expected, rel=1e-12, abs=1e-12)


@settings(max_examples=60, deadline=None)
@given(both=pairs(), std=STDS)
def test_decode_inverts_encode(both: tuple[Tensor, Tensor], std: tuple[float, ...]):
    targets, boxes = both
    growth = ((targets[:, 2:] - targets[:, :2]) / (boxes[:, 2:] - boxes[:, :2])).log().amax(1)
    within = growth < MAX_LOG_SCALE  # beyond it decoding is clipped, see below
    decoded = decode_deltas(encode_deltas(targets, boxes, std=std), boxes, std=std)
    torch.testing.assert_close(decoded[within], targets[within], rtol=0, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(boxes=box_lists(), std=STDS, seed=st.integers(0, 2**31))
def test_encode_inverts_decode(boxes: Tensor, std: tuple[float, ...], seed: int):
    generator = torch.Generator().manual_seed(seed)
    deltas = torch.randn(boxes.shape, generator=generator, dtype=torch.float64) / torch.tensor(std)
    deltas[:, 2:] = deltas[:, 2:].clamp(max=MAX_LOG_SCALE)
    again = encode_deltas(decode_deltas(deltas, boxes, std=std), boxes, std=std)
    torch.testing.assert_close(again, deltas, rtol=1e-8, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(both=pairs(), shift=st.integers(-999, 999), scale=st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_deltas_do_not_depend_on_place_or_scale(both: tuple[Tensor, Tensor], shift: int, scale: float):
    targets, boxes = both
    moved = encode_deltas((targets + shift) * scale, (boxes + shift) * scale, std=RAW)
    torch.testing.assert_close(moved, encode_deltas(targets, boxes, std=RAW), rtol=1e-9, atol=1e-9)


def test_growth_is_clipped_from_above_only():
    box = torch.tensor([10.0, 20.0, 26.0, 36.0], dtype=torch.float64)
    deltas = torch.tensor([[0.0, 0.0, 50.0, 5.0], [90.0, -90.0, -9.0, 0.0]], dtype=torch.float64, requires_grad=True)
    wide, small = decode_deltas(deltas, box, std=RAW)
    assert (wide[2] - wide[0]).item() == pytest.approx(1000), "a 16 px side grows to 1000 px at most"
    assert (wide[3] - wide[1]).item() == pytest.approx(1000)
    assert (small[2] - small[0]).item() == pytest.approx(16 * math.exp(-9), rel=1e-9)
    assert ((small[0] + small[2]) / 2).item() == pytest.approx(18 + 90 * 16), "shifts are not clipped"
    wide.sum().backward()
    assert deltas.grad is not None
    assert deltas.grad[0, 2:].tolist() == [0, 0]


def test_std_is_undone_before_the_clip():
    """dw = 5 * .2 is far from the clip, raw 5 is beyond it."""
    box = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    scaled = decode_deltas(torch.tensor([0.0, 0.0, 5.0, 5.0], dtype=torch.float64), box, std=HEAD)
    assert (scaled[2] - scaled[0]).item() == pytest.approx(math.e)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_without_area_give_finite_deltas(dtype: torch.dtype):
    boxes = torch.tensor([[3.0, 4.0, 35.0, 36.0], [0.0, 0.0, 0.25, 0.25]], dtype=dtype)
    targets = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1e4, 1e4, 0.0, 0.0]], dtype=dtype)
    assert encode_deltas(targets, boxes, std=HEAD).isfinite().all()
    no_area = torch.zeros(1, 4, dtype=dtype)  # against the contract, but diverged refinement produces them
    assert not encode_deltas(targets, no_area, std=HEAD).isnan().any()


@settings(max_examples=60, deadline=None)
@given(first=box_lists(least_side=0), second=box_lists(least_side=0))
def test_iou_is_torchvisions(first: Tensor, second: Tensor):
    expected = box_iou(first, second).nan_to_num(0.0)  # two boxes without area: ours is 0
    torch.testing.assert_close(iou(first, second), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(iou(second, first), expected.T, rtol=0, atol=1e-12)
    batched = iou(torch.stack([first, first + 5]), torch.stack([second, second - 3]))
    torch.testing.assert_close(batched[1], box_iou(first + 5, second - 3).nan_to_num(0.0), rtol=0, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(first=box_lists(least_side=0), second=box_lists(least_side=0))
def test_share_inside_literal(first: Tensor, second: Tensor):
    shares = intersection_over_first(first, second).tolist()
    for a, row in zip(first.tolist(), shares, strict=True):
        for b, share in zip(second.tolist(), row, strict=True):
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            area = (a[2] - a[0]) * (a[3] - a[1])
            expected = width * height / area if width > 0 and height > 0 else 0
            assert share == pytest.approx(expected, abs=1e-12)


def test_inverted_boxes_overlap_nothing():
    inverted = torch.tensor([[10.0, 10.0, 0.0, 0.0], [10.0, 0.0, 0.0, 10.0]])
    normal = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    assert iou(inverted, normal).tolist() == [[0], [0]]
    assert iou(inverted, inverted).eq(0).all()
    assert intersection_over_first(inverted, normal).eq(0).all()


@settings(max_examples=40, deadline=None)
@given(first=box_lists(least_side=0), second=box_lists(), height=st.integers(1, 300), width=st.integers(1, 300))
def test_clipping_is_torchvisions_per_image(first: Tensor, second: Tensor, height: int, width: int):
    n = min(len(first), len(second))
    sizes = torch.tensor([[height, width], [width, height]])
    clipped = clip_to_sizes(torch.stack([first[:n], second[:n]]), sizes)
    assert torch.equal(clipped[0], clip_boxes_to_image(first[:n], (height, width)))
    assert torch.equal(clipped[1], clip_boxes_to_image(second[:n], (width, height)))


def test_gradient_of_both_directions():
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(5, 2, generator=generator, dtype=torch.float64) * 100
    boxes = torch.cat([corner, corner + 10 + corner.flip(0)], dim=1).requires_grad_()
    targets = (boxes + torch.rand(5, 4, generator=generator, dtype=torch.float64)).detach().requires_grad_()
    deltas = torch.randn(5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t, b: encode_deltas(t, b, std=HEAD), (targets, boxes))
    assert torch.autograd.gradcheck(lambda d, b: decode_deltas(d, b, std=HEAD), (deltas, boxes))
