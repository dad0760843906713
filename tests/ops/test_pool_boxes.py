from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from mimicdet.ops.sampling import pool_boxes

SHAPES = ((12, 15), (7, 6), (1, 1))
"""Rows and columns of three levels; two images."""
CHANNELS = 3


def maps() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, CHANNELS, *shape, generator=generator, dtype=torch.float64) for shape in SHAPES]


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
    heights, widths = (torch.tensor([shape[k] for shape in SHAPES])[level] for k in (0, 1))
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
