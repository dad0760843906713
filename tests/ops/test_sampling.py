"""Bilinear sampling of several maps at once: against torchvision, grid_sample and a loop over points."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import deform_conv2d, roi_align

from mimicdet.ops.sampling import kernel_taps, pool_boxes, sample_bilinear

SHAPES = [(7, 5), (1, 1), (3, 4), (1, 6), (9, 2)]
"""Rows and columns of the maps: odd, even, a single cell, single rows."""


def make_maps(channels: int = 3, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(channels, h, w, generator=generator, dtype=torch.float64) for h, w in SHAPES]


def make_table(maps: list[Tensor]) -> Tensor:
    return torch.cat([m.flatten(1).T for m in maps])


def where(which: Tensor) -> dict[str, Tensor]:
    """Start, height and width of the map that each row reads."""
    sizes = torch.tensor(SHAPES)
    starts = torch.tensor([sum(h * w for h, w in SHAPES[:i]) for i in range(len(SHAPES))])
    return {"start": starts[which], "height": sizes[which, 0], "width": sizes[which, 1]}


def hard_points(which: Tensor, taps: int, seed: int = 1, *, whole: bool = True) -> Tensor:
    """(P, T, 2): near and inside the map, on cell centres and borders, just outside, far outside."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.tensor(SHAPES, dtype=torch.float64)[which][:, None]
    points = torch.rand(len(which), taps, 2, generator=generator, dtype=torch.float64) * (size + 4) - 2
    kind = torch.randint(0, 6, (len(which), taps, 1), generator=generator)
    if whole:
        points = torch.where(kind == 0, points.round(), points)  # cell centres, -1 and the size itself among them
        points = torch.where(kind == 1, points.round() + 1e-9, points)
    points = torch.where(kind == 2, points * 1e3, points)
    return torch.where((kind == 3) & (torch.rand(kind.shape, generator=generator) < 0.2), points * 1e12, points)


def literal(m: Tensor, y: float, x: float) -> Tensor:
    value = torch.zeros(m.shape[0], dtype=m.dtype)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < m.shape[1] and 0 <= column < m.shape[2]:
                value += m[:, row, column] * (1 - abs(y - row)) * (1 - abs(x - column))
    return value


def test_the_exported_form_is_the_same_function(monkeypatch: pytest.MonkeyPatch) -> None:
    which = torch.arange(len(SHAPES)).repeat(8)
    points, table = hard_points(which, 9), make_table(make_maps())
    fused = sample_bilinear(table, points, **where(which))
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    monkeypatch.setattr(F, "embedding_bag", None)
    torch.testing.assert_close(sample_bilinear(table, points, **where(which)), fused, rtol=0, atol=1e-12)


def test_taps_row_by_row():
    assert kernel_taps(3).tolist() == [[y, x] for y in (-1, 0, 1) for x in (-1, 0, 1)]
    assert kernel_taps(1).tolist() == [[0, 0]]
    assert kernel_taps(5).tolist() == [[y, x] for y in range(-2, 3) for x in range(-2, 3)]


def test_equals_a_loop_over_points():
    maps = make_maps()
    which = torch.arange(len(SHAPES)).repeat(8)
    points = hard_points(which, taps=5)
    values = sample_bilinear(make_table(maps), points, **where(which))
    assert values.shape == (len(which), 5, 3)
    for p, m in enumerate(which.tolist()):
        for t, (y, x) in enumerate(points[p].tolist()):
            torch.testing.assert_close(values[p, t], literal(maps[m], y, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_value_and_gradients_equal_deform_conv2d(kernel_size: int):
    """Every position of every map as one batch of points; torchvision map by map."""
    t, channels, out = kernel_size**2, 3, 4
    generator = torch.Generator().manual_seed(kernel_size)
    weight = torch.randn(out, channels, kernel_size, kernel_size, generator=generator, dtype=torch.float64)
    cells = torch.tensor([(i, y, x) for i, (h, w) in enumerate(SHAPES) for y in range(h) for x in range(w)])
    which, center = cells[:, 0], cells[:, 1:].double()
    offsets = hard_points(which, t, seed=kernel_size) - center[:, None] - kernel_taps(kernel_size).double()

    ours = [m.requires_grad_() for m in make_maps(channels)]
    our_offsets, our_weight = offsets.clone().requires_grad_(), weight.clone().requires_grad_()
    points = center[:, None] + kernel_taps(kernel_size).double() + our_offsets
    taps = sample_bilinear(make_table(ours), points, **where(which))
    result = F.linear(taps.flatten(1), our_weight.permute(0, 2, 3, 1).reshape(out, -1))

    theirs = [m.requires_grad_() for m in make_maps(channels)]
    their_offsets, their_weight = offsets.clone().requires_grad_(), weight.clone().requires_grad_()
    expected = []
    for i, (h, w) in enumerate(SHAPES):
        offset = their_offsets[which == i].reshape(h, w, 2 * t).permute(2, 0, 1)[None]
        conv = deform_conv2d(theirs[i][None], offset, their_weight, padding=kernel_size // 2)
        expected.append(conv[0].flatten(1).T)
    cotangent = torch.randn(len(cells), out, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(result, torch.cat(expected), rtol=1e-10, atol=1e-10)
    gradients = torch.autograd.grad(result, [*ours, our_offsets, our_weight], cotangent)
    references = torch.autograd.grad(torch.cat(expected), [*theirs, their_offsets, their_weight], cotangent)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-10, atol=1e-10)
    assert references[-2].abs().max() > 0.1


def test_value_and_gradients_equal_grid_sample():
    """Away from cell centres, where the slope jumps and rounding decides the side."""
    which = torch.arange(len(SHAPES)).repeat_interleave(20)
    points = hard_points(which, taps=2, whole=False)
    maps = [m.requires_grad_() for m in make_maps()]
    table = make_table(maps)
    ours, theirs = points.clone().requires_grad_(), points.clone().requires_grad_()
    values = sample_bilinear(table, ours, **where(which))
    expected = []
    for i, (h, w) in enumerate(SHAPES):
        at = theirs[which == i].flip(-1)
        normalised = (2 * at + 1) / torch.tensor([w, h], dtype=torch.float64) - 1
        sampled = F.grid_sample(maps[i][None], normalised[None], mode="bilinear", align_corners=False)
        expected.append(sampled[0].permute(1, 2, 0))
    reference = torch.cat(expected)
    torch.testing.assert_close(values, reference, rtol=0, atol=1e-10)
    cotangent = torch.randn(values.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    got = torch.autograd.grad(values, [*maps, ours], cotangent, retain_graph=True)
    wanted = torch.autograd.grad(reference, [*maps, theirs], cotangent)
    for gradient, reference_gradient in zip(got, wanted, strict=True):
        torch.testing.assert_close(gradient, reference_gradient, rtol=0, atol=1e-10)


def test_gradcheck():
    which = torch.tensor([0, 2, 3, 0])
    points = hard_points(which, taps=2, whole=False, seed=4).clamp(-3, 12).requires_grad_()
    table = make_table(make_maps(channels=2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda t, p: sample_bilinear(t, p, **where(which)), (table, points))


def test_whole_points_read_cells_and_outside_is_zero():
    maps = make_maps()
    cells = torch.tensor([(i, y, x) for i, (h, w) in enumerate(SHAPES) for y in range(h) for x in range(w)])
    table = make_table(maps)
    on_cells = sample_bilinear(table, cells[:, None, 1:].double(), **where(cells[:, 0]))
    assert torch.equal(on_cells[:, 0], table)
    for i, (h, w) in enumerate(SHAPES):
        outside = torch.tensor([[[-1.0, 0.0], [h, 0.0], [0.0, -1.0], [0.0, w], [-1e30, 1e30], [1e18, 0.0]]]).double()
        assert sample_bilinear(table, outside, **where(torch.tensor([i]))).eq(0).all()
        half_out = torch.tensor([[[-0.5, 0.0], [h - 0.5, w - 1.0]]]).double()
        halves = sample_bilinear(table, half_out, **where(torch.tensor([i])))[0]
        torch.testing.assert_close(halves, torch.stack([maps[i][:, 0, 0], maps[i][:, -1, -1]]) / 2)


def test_no_map_reads_its_neighbours():
    """All other maps are NaN: whatever leaks is seen."""
    for i in range(len(SHAPES)):
        maps = [m if j == i else torch.full_like(m, math.nan) for j, m in enumerate(make_maps())]
        which = torch.full((60,), i)
        assert sample_bilinear(make_table(maps), hard_points(which, taps=4), **where(which)).isfinite().all()


def test_points_that_are_not_finite_spoil_their_own_tap_only():
    points = torch.tensor([[[math.nan, 1.0], [1.0, 1.0]], [[0.5, math.inf], [-math.inf, 0.0]]], dtype=torch.float64)
    values = sample_bilinear(make_table(make_maps()), points, **where(torch.tensor([0, 0])))
    assert values.isnan().all(-1).tolist() == [[True, False], [True, True]]


def test_no_points_at_all():
    table = make_table(make_maps()).requires_grad_()
    points = torch.zeros(0, 9, 2, dtype=torch.float64, requires_grad=True)
    values = sample_bilinear(table, points, **where(torch.zeros(0, dtype=torch.int64)))
    assert values.shape == (0, 9, 3)
    values.sum().backward()
    assert table.grad is not None
    assert table.grad.eq(0).all()


# Boxes


LEVELS = ((12, 15), (7, 6), (1, 1))
"""Rows and columns of three levels; two images."""
CHANNELS = 3


def maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, CHANNELS, *shape, generator=generator, dtype=torch.float64) for shape in LEVELS]


def some_boxes(n: int) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes in cells inside, across every edge, far outside, without area and inside out; image and level of each."""
    generator = torch.Generator().manual_seed(1)
    corner = 14 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 4
    side = 12 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 2
    side[::5] = 0
    boxes = torch.cat([corner, corner + side], dim=1)
    boxes[::7] *= 1000
    image, level = torch.randint(0, 2, (n,), generator=generator), torch.randint(0, 3, (n,), generator=generator)
    return boxes, image, level


def by_torchvision(
    levels: list[Tensor], boxes: Tensor, image: Tensor, level: Tensor, size: int, samples: int
) -> Tensor:
    parts = []
    for box, i, l in zip(boxes, image, level, strict=True):
        padded = F.pad(levels[l][i : i + 1], (0, 1, 0, 1))
        roi = torch.cat([box.new_zeros(1), box])[None]
        parts.append(roi_align(padded, roi, size, 1.0, samples, aligned=True))
    return torch.cat(parts)


@pytest.mark.parametrize(("size", "samples"), [(7, 2), (1, 1), (3, 4)])
def test_values_and_gradients_are_roi_aligns(size: int, samples: int) -> None:
    boxes, image, level = some_boxes(300)
    levels = [feature.requires_grad_() for feature in maps()]
    table = torch.cat([feature.permute(0, 2, 3, 1).flatten(0, 2) for feature in levels])
    heights, widths = (torch.tensor([shape[k] for shape in LEVELS])[level] for k in (0, 1))
    starts = torch.tensor([0, 2 * 12 * 15, 2 * 12 * 15 + 2 * 7 * 6])[level] + image * heights * widths
    found = pool_boxes(table, boxes, start=starts, height=heights, width=widths, size=size, samples=samples)
    expected = by_torchvision(levels, boxes, image, level, size, samples)
    assert found.shape == (300, CHANNELS, size, size)
    assert (expected != 0).flatten(1).any(1).sum() > 30
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = [torch.autograd.grad((out * weight).sum(), levels) for out in (found, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def test_no_boxes_at_all() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    found = pool_boxes(
        torch.randn(6, 4, requires_grad=True), torch.zeros(0, 4), start=none, height=none, width=none, size=7, samples=2
    )
    assert found.shape == (0, 4, 7, 7)
    found.sum().backward()
