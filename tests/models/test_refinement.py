from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mimicdet.models.anchors import square_anchors
from mimicdet.models.mimicdet import Refinement
from tests.fakes.tiny import enliven


def test_outputs_are_one_3x3_and_two_1x1_convolutions_in_the_order_of_places() -> None:
    refinement = Refinement(channels=4)
    enliven(refinement)
    shapes = ((5, 3), (2, 2), (1, 1))
    levels = [torch.randn(2, 4, h, w) for h, w in shapes]
    objectness, deltas = refinement(levels)
    assert objectness.shape == (2, 20)
    assert deltas.shape == (2, 20, 4)
    places = square_anchors((3, 4, 5), side_in_cells=4)(shapes)
    for a in range(20):
        level, y, x = int(places.level[a]), int(places.y[a]), int(places.x[a])
        patch = F.pad(levels[level], (1, 1, 1, 1))[:, :, y : y + 3, x : x + 3]
        hidden = F.relu(F.conv2d(patch, refinement.conv.weight, refinement.conv.bias))
        expected = F.conv2d(hidden, refinement.objectness.weight, refinement.objectness.bias)[:, 0, 0, 0]
        torch.testing.assert_close(objectness[:, a], expected)
        expected = F.conv2d(hidden, refinement.deltas.weight, refinement.deltas.bias)[:, :, 0, 0]
        torch.testing.assert_close(deltas[:, a], expected)


def test_initialisation() -> None:
    """Section 4.1, sigma 0.01; every anchor starts at probability 0.01, unmoved."""
    refinement = Refinement(channels=64)
    for layer in (refinement.conv, refinement.objectness, refinement.deltas):
        assert float(layer.weight.detach().std()) == pytest.approx(0.01, rel=0.25)
    objectness, deltas = refinement([torch.randn(1, 64, 8, 8)])
    torch.testing.assert_close(objectness.sigmoid(), torch.full((1, 64), 0.01), rtol=0, atol=1e-3)
    assert float(deltas.detach().abs().max()) < 0.1


def test_results_are_float32_under_autocast_and_float64_in_float64() -> None:
    refinement = Refinement(channels=4)
    with torch.autocast("cpu", torch.bfloat16):
        assert [out.dtype for out in refinement([torch.randn(1, 4, 2, 2)])] == [torch.float32] * 2
    found = refinement.double()([torch.randn(1, 4, 2, 2, dtype=torch.float64)])
    assert [out.dtype for out in found] == [torch.float64] * 2
