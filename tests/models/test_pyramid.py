from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mimicdet.models.pyramid import FinerLevel, Norm, Pyramid, he_init, level_mask, mask_padding
from tests.fakes.tiny import enliven

IN_CHANNELS = {2: 5, 3: 3, 4: 4, 5: 6}


def make_pyramid(levels: tuple[int, ...] = (3, 4, 5, 6, 7), norm: Norm = "none") -> Pyramid:
    pyramid = Pyramid(in_channels=IN_CHANNELS, levels=levels, channels=4, norm=norm)
    enliven(pyramid)
    return pyramid.double()


def make_finer(norm: Norm = "none") -> FinerLevel:
    finer = FinerLevel(in_channels=IN_CHANNELS[2], channels=4, level=2, norm=norm)
    enliven(finer)
    return finer.double()


def make_features(height: int, width: int, images: int = 1) -> dict[int, Tensor]:
    return {
        l: torch.randn(images, c, -(-height // 2**l), -(-width // 2**l), dtype=torch.float64)
        for l, c in IN_CHANNELS.items()
    }


def twice(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def conv(x: Tensor, layer: nn.Module, **options: int) -> Tensor:
    return F.conv2d(x, layer.weight, layer.bias, **options)  # type: ignore[arg-type]


def test_levels_are_what_section_3_1_says() -> None:
    pyramid = make_pyramid()
    c = make_features(64, 128, images=2)
    out = pyramid(c)
    top5 = conv(c[5], pyramid.lateral["p5"])
    top4 = conv(c[4], pyramid.lateral["p4"]) + twice(top5)
    top3 = conv(c[3], pyramid.lateral["p3"]) + twice(top4)
    p6 = conv(c[5], pyramid.extra["p6"], stride=2, padding=1)
    expected = (
        conv(top3, pyramid.output["p3"], padding=1),
        conv(top4, pyramid.output["p4"], padding=1),
        conv(top5, pyramid.output["p5"], padding=1),
        p6,
        conv(F.relu(p6), pyramid.extra["p7"], stride=2, padding=1),
    )
    assert len(out.levels) == 5
    for found, wanted in zip(out.levels, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert [tuple(level.shape) for level in out.levels] == [
        (2, 4, 8, 16),
        (2, 4, 4, 8),
        (2, 4, 2, 4),
        (2, 4, 1, 2),
        (2, 4, 1, 1),
    ]

    finer = make_finer()
    p2 = conv(conv(c[2], finer.lateral) + twice(top3), finer.output, padding=1)
    torch.testing.assert_close(finer(out), p2, rtol=0, atol=1e-12)


def over_channels(x: Tensor, layer: nn.Module) -> Tensor:
    """Layer norm of each cell."""
    moved = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), layer.weight, layer.bias, 1e-6)  # type: ignore[arg-type]
    return moved.permute(0, 3, 1, 2)


def test_normalised_levels_are_normalised_on_the_way_in_and_out() -> None:
    pyramid, finer = make_pyramid(norm="layer"), make_finer("layer")
    c = make_features(64, 128, images=2)
    out = pyramid(c)

    def lateral(l: int) -> Tensor:
        norm, layer = (finer.lateral if l == 2 else pyramid.lateral[f"p{l}"]).children()
        return conv(over_channels(c[l], norm), layer)

    def output(x: Tensor, part: nn.Module, stride: int = 1) -> Tensor:
        layer, norm = part.children()
        return over_channels(conv(x, layer, stride=stride, padding=1), norm)

    top5 = lateral(5)
    top4 = lateral(4) + twice(top5)
    top3 = lateral(3) + twice(top4)
    p6 = output(over_channels(c[5], pyramid.extra_norm), pyramid.extra["p6"], stride=2)
    expected = (
        output(top3, pyramid.output["p3"]),
        output(top4, pyramid.output["p4"]),
        output(top5, pyramid.output["p5"]),
        p6,
        output(F.relu(p6), pyramid.extra["p7"], stride=2),
    )
    for found, wanted in zip(out.levels, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)
    torch.testing.assert_close(finer(out), output(lateral(2) + twice(top3), finer.output), rtol=0, atol=1e-10)
    # Whatever the backbone's scale, the heads see the same
    for found, wanted in zip(pyramid({l: 30 * x for l, x in c.items()}).levels, out.levels, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-2)


@pytest.mark.parametrize("norm", ["none", "layer"])
@pytest.mark.parametrize("levels", [(3, 4, 5, 6, 7), (2, 3, 4, 5, 6), (3, 4, 5), (4, 5, 6, 7, 8), (5, 6)])
def test_any_run_of_levels(levels: tuple[int, ...], norm: Norm) -> None:
    pyramid = make_pyramid(levels, norm)
    out = pyramid(make_features(128, 256))
    assert [tuple(level.shape[2:]) for level in out.levels] == [(max(128 // 2**l, 1), 256 // 2**l) for l in levels]
    sum(level.sum() for level in out.levels).backward()
    assert all(parameter.grad is not None for parameter in pyramid.parameters())


@settings(deadline=None)
@given(height=st.integers(1, 200), width=st.integers(1, 200), level=st.integers(0, 7))
def test_mask_marks_cells_that_overlap_the_image(height: int, width: int, level: int) -> None:
    stride = 2**level
    rows, columns = -(-200 // stride) + 1, -(-200 // stride) + 2
    found = level_mask(torch.tensor([[height, width]]), level, (rows, columns))[0, 0]
    for y in range(0, rows, max(1, rows // 7)):
        for x in range(0, columns, max(1, columns // 7)):
            assert bool(found[y, x]) == (y * stride < height and x * stride < width)
    assert int(found.sum()) == -(-height // stride) * -(-width // stride)


def test_without_sizes_nothing_is_masked() -> None:
    feature = torch.randn(1, 2, 3, 4)
    assert mask_padding(feature, None, 3) is feature


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 130),
    width=st.integers(1, 130),
    more=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    levels=st.sampled_from([(3, 4, 5, 6, 7), (3, 4, 5), (2, 3, 4, 5, 6)]),
    norm=st.sampled_from(["none", "layer"]),
)
def test_padding_changes_nothing(
    height: int, width: int, more: tuple[int, int], levels: tuple[int, ...], norm: Norm
) -> None:
    """Whatever the backbone gives there: levels are equal on the smallest canvas and a larger one, and zero beyond."""
    pyramid, finer = make_pyramid(levels, norm), make_finer(norm)
    sizes = torch.tensor([[height, width]])
    small = make_features(-(-height // 32) * 32, -(-width // 32) * 32)
    large = make_features((-(-height // 32) + more[0]) * 32, (-(-width // 32) + more[1]) * 32)
    for l, feature in small.items():
        h, w = -(-height // 2**l), -(-width // 2**l)
        large[l][:, :, :h, :w] = feature[:, :, :h, :w]
    one, other = pyramid(small, sizes), pyramid(large, sizes)
    pairs = list(zip(levels, one.levels, other.levels, strict=True))
    if levels[0] == 3:
        pairs.append((2, finer(one, sizes), finer(other, sizes)))
    for l, a, b in pairs:
        h, w = -(-height // 2**l), -(-width // 2**l)
        torch.testing.assert_close(a[:, :, :h, :w], b[:, :, :h, :w], rtol=0, atol=1e-12)
        assert a[:, :, :h, :w].any()
        for level in (a, b):
            assert not level[:, :, h:].any()
            assert not level[:, :, :, w:].any()


def test_he_initialisation() -> None:
    """Section 4.1: new parameters of the pyramid."""
    pyramid = Pyramid(in_channels={3: 64, 4: 64, 5: 64}, levels=(3, 4, 5, 6, 7), channels=64)
    finer = FinerLevel(in_channels=64, channels=64, level=2)
    layers = [m for part in (pyramid, finer) for m in part.modules() if isinstance(m, nn.Conv2d)]
    assert len(layers) == 3 + 3 + 2 + 2
    for layer in layers:
        assert float(layer.weight.detach().std()) == pytest.approx((2 / layer.weight[0].numel()) ** 0.5, rel=0.1)
        assert not layer.bias.any()
    linear = nn.Linear(400, 100)
    he_init(linear)
    assert float(linear.weight.detach().std()) == pytest.approx((2 / 400) ** 0.5, rel=0.1)
