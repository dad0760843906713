from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from mimicdet.models.alignment import AlignedConv, GuidedOffsets, OffsetSource, box_grid_offsets
from mimicdet.ops.sampling import kernel_taps, sample_bilinear


def literal_points(deltas: list[float], k: int) -> list[tuple[float, float]]:
    """Centres y, x of a k x k division of the adjusted box, in cells from the anchor's centre; an anchor is 4 wide."""
    dx, dy, dw, dh = deltas
    width, height = 4 * math.exp(min(dw, math.log(1000 / 16))), 4 * math.exp(min(dh, math.log(1000 / 16)))
    left, top = 4 * dx - width / 2, 4 * dy - height / 2
    return [(top + (i + 0.5) * height / k, left + (j + 0.5) * width / k) for i in range(k) for j in range(k)]


@settings(deadline=None)
@given(
    deltas=st.tuples(*[st.floats(-3, 3)] * 2, *[st.floats(-3, 8)] * 2),
    k=st.sampled_from([1, 3, 5, 7]),
)
def test_box_grid_taps_are_the_centres_of_the_boxs_cells(deltas: tuple[float, ...], k: int) -> None:
    offsets = box_grid_offsets(torch.tensor(deltas, dtype=torch.float64), k)
    points = kernel_taps(k).double() + offsets.reshape(k * k, 2)
    expected = torch.tensor(literal_points(list(deltas), k), dtype=torch.float64)
    torch.testing.assert_close(points, expected, rtol=1e-12, atol=1e-10)


def test_box_grid_of_an_unmoved_box_spreads_over_the_anchor() -> None:
    points = kernel_taps(5) + box_grid_offsets(torch.zeros(4), 5).reshape(25, 2)
    assert torch.allclose(points[:5, 1], torch.tensor([-1.6, -0.8, 0.0, 0.8, 1.6]))
    assert torch.allclose(points[::5, 0], torch.tensor([-1.6, -0.8, 0.0, 0.8, 1.6]))


def literal_deformable(feature: Tensor, offsets: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A deformable convolution tap by tap: (C, H, W), (2*T, H, W) -> (C_out, H, W)."""
    c, height, width = feature.shape
    k = weight.shape[-1]

    def value(y: int, x: int) -> Tensor:
        return feature[:, y, x] if 0 <= y < height and 0 <= x < width else torch.zeros(c, dtype=feature.dtype)

    out = torch.empty(weight.shape[0], height, width, dtype=feature.dtype)
    for y in range(height):
        for x in range(width):
            total = bias.clone()
            for i in range(k):
                for j in range(k):
                    t = i * k + j
                    py = y + i - k // 2 + float(offsets[2 * t, y, x])
                    px = x + j - k // 2 + float(offsets[2 * t + 1, y, x])
                    y0, x0 = math.floor(py), math.floor(px)
                    fy, fx = py - y0, px - x0
                    read = (1 - fy) * ((1 - fx) * value(y0, x0) + fx * value(y0, x0 + 1))
                    read = read + fy * ((1 - fx) * value(y0 + 1, x0) + fx * value(y0 + 1, x0 + 1))
                    total = total + weight[:, :, i, j] @ read
            out[:, y, x] = total
    return out


def conv(k: int, *, in_channels: int = 3, out_channels: int = 4) -> AlignedConv:
    layer = AlignedConv(in_channels=in_channels, out_channels=out_channels, kernel_size=k).double()
    with torch.no_grad():
        layer.bias.normal_()
    return layer


def read_everywhere(layer: AlignedConv, feature: Tensor, offsets: Tensor | None) -> Tensor:
    """``at`` at every position of one map (B, C, H, W), as an image."""
    b, c, h, w = feature.shape
    k = layer.kernel_size[0]
    table = feature.flatten(2).transpose(1, 2).reshape(-1, c)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    center = torch.stack([y.flatten(), x.flatten()], -1).repeat(b, 1).double()
    points = center[:, None] + kernel_taps(k).double()
    if offsets is not None:
        points = points + offsets.flatten(2).transpose(1, 2).reshape(-1, k * k, 2)
    n = len(points)
    start = torch.arange(b).repeat_interleave(h * w) * h * w
    taps = sample_bilinear(table, points, start=start, height=torch.full((n,), h), width=torch.full((n,), w))
    return layer.at(taps).reshape(b, h * w, -1).transpose(1, 2).reshape(b, -1, h, w)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("spread", [0.4, 3.0])
def test_both_forms_are_the_deformable_convolution(k: int, spread: float) -> None:
    """Against torchvision, and against a loop over taps; the larger offsets leave the map on every side."""
    layer = conv(k)
    feature = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    offsets = spread * torch.randn(2, 2 * k * k, 4, 5, dtype=torch.float64)
    expected = deform_conv2d(feature, offsets, layer.weight, layer.bias, padding=k // 2)
    torch.testing.assert_close(layer.dense(feature, offsets), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(read_everywhere(layer, feature, offsets), expected, rtol=0, atol=1e-12)
    literal = literal_deformable(feature[1], offsets[1], layer.weight, layer.bias)
    torch.testing.assert_close(expected[1], literal, rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 5, 7])
def test_without_offsets_and_with_zero_offsets_it_is_an_ordinary_convolution(k: int) -> None:
    layer = conv(k)
    feature = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    expected = F.conv2d(feature, layer.weight, layer.bias, padding=k // 2)
    zero = torch.zeros(2, 2 * k * k, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(layer.dense(feature, None), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer.dense(feature, zero), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(read_everywhere(layer, feature, None), expected, rtol=0, atol=1e-12)


def test_dense_works_under_bfloat16_autocast() -> None:
    """torchvision has no half-precision kernel on the CPU."""
    layer = AlignedConv(in_channels=3, out_channels=4, kernel_size=3)
    feature, offsets = torch.randn(1, 3, 4, 5), torch.randn(1, 18, 4, 5)
    expected = layer.dense(feature, offsets)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.dense(feature, offsets), expected)
        halves = layer.dense(feature.bfloat16(), offsets.bfloat16())
    torch.testing.assert_close(halves, expected, rtol=0.1, atol=0.1)


# The micro-network


def test_the_micro_network_is_three_1x1_convolutions_with_64_and_128_channels() -> None:
    """Section 3.3; the finest level has its own last layer where its kernel differs."""
    offsets = GuidedOffsets(source="learned", kernel_size=5, finest_kernel_size=3)
    shapes = {name: tuple(p.shape) for name, p in offsets.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "hidden.0.weight": (64, 4),
        "hidden.2.weight": (128, 64),
        "last.weight": (50, 128),
        "last_finest.weight": (18, 128),
    }
    deltas = torch.randn(2, 4, 3, 5)
    layers = [offsets.hidden[0], offsets.hidden[2], offsets.last]
    out = deltas
    for i, layer in enumerate(layers):
        out = F.conv2d(out, layer.weight[..., None, None], layer.bias)
        out = F.relu(out) if i < 2 else out
    found = offsets(deltas.permute(0, 2, 3, 1), finest=False, kernel_size=5)
    torch.testing.assert_close(found.permute(0, 3, 1, 2), out)


def test_it_starts_at_sigma_a_hundredth() -> None:
    """Section 4.1: so the learned offsets start near zero."""
    offsets = GuidedOffsets(source="learned", kernel_size=5, finest_kernel_size=3)
    for name, parameter in offsets.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            assert 0.007 < float(parameter.detach().std()) < 0.013
    assert offsets(torch.randn(100, 4), finest=False, kernel_size=5).abs().max() < 0.01


@pytest.mark.parametrize(("kernel", "finest", "own"), [(5, 3, True), (3, 3, False)])
def test_the_finest_level_has_its_own_last_layer_only_where_its_kernel_differs(
    kernel: int, finest: int, own: bool
) -> None:
    offsets = GuidedOffsets(source="learned", kernel_size=kernel, finest_kernel_size=finest)
    assert (offsets.last_finest is not offsets.last) == own
    assert offsets(torch.zeros(2, 4), finest=True, kernel_size=finest).shape == (2, 2 * finest**2)
    assert offsets(torch.zeros(2, 4), finest=False, kernel_size=kernel).shape == (2, 2 * kernel**2)


@pytest.mark.parametrize("source", ["learned", "box_grid", "box_grid+learned"])
@pytest.mark.parametrize("finest", [True, False])
def test_sources_of_offsets(source: OffsetSource, finest: bool) -> None:
    offsets = GuidedOffsets(source=source, kernel_size=5, finest_kernel_size=3).double()
    for parameter in offsets.parameters():
        nn.init.normal_(parameter, std=0.2)
    deltas = torch.randn(6, 4, dtype=torch.float64)
    k = 3 if finest else 5
    found = offsets(deltas, finest=finest, kernel_size=k)
    expected = torch.zeros(6, 2 * k * k, dtype=torch.float64)
    if "learned" in source:
        expected = expected + (offsets.last_finest if finest else offsets.last)(offsets.hidden(deltas))
    else:
        assert not list(offsets.parameters())
    if "box_grid" in source:
        expected = expected + box_grid_offsets(deltas, k)
    torch.testing.assert_close(found, expected)
