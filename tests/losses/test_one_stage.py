"""Losses of the one-stage detectors against formulas written out."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mimicdet.losses.one_stage import (
    centerness,
    distribution_losses,
    focal_losses,
    overlap_losses,
    quality_focal_losses,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_focal() -> None:
    logits, targets = random(4, 3), (random(4, 3, seed=1) > 0).double()
    for row, wanted, loss in zip(logits, targets, focal_losses(logits, targets, alpha=0.3, gamma=1.5), strict=True):
        expected = 0.0
        for z, t in zip(row.tolist(), wanted.tolist(), strict=True):
            p = sigmoid(z) if t else 1 - sigmoid(z)
            expected -= (0.3 if t else 0.7) * (1 - p) ** 1.5 * math.log(p)
        assert math.isclose(loss.item(), expected, rel_tol=1e-10)


def test_quality_focal() -> None:
    logits, targets = random(4, 3), random(4, 3, seed=1).sigmoid()
    for row, wanted, loss in zip(logits, targets, quality_focal_losses(logits, targets, gamma=2.0), strict=True):
        expected = 0.0
        for z, t in zip(row.tolist(), wanted.tolist(), strict=True):
            p = sigmoid(z)
            expected -= abs(t - p) ** 2 * (t * math.log(p) + (1 - t) * math.log(1 - p))
        assert math.isclose(loss.item(), expected, rel_tol=1e-10)
    exact = torch.tensor([[0.3, 0.9]], dtype=torch.float64)
    assert quality_focal_losses(exact.logit(), exact, gamma=2.0).abs().max() < 1e-12


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1, 20), min_size=4, max_size=4), st.integers(0, 2**20))
def test_distribution(distances: list[float], seed: int) -> None:
    logits = random(1, 4 * 17, seed=seed)
    expected = 0.0
    for side, distance in enumerate(distances):
        p = logits[0, side * 17 : side * 17 + 17].softmax(0).tolist()
        d = min(max(distance, 0.0), 16 - 0.01)
        low = int(d)
        expected -= ((low + 1 - d) * math.log(p[low]) + (d - low) * math.log(p[low + 1])) / 4
    found = distribution_losses(logits, torch.tensor([distances], dtype=torch.float64))
    assert math.isclose(found.item(), expected, rel_tol=1e-9, abs_tol=1e-12)


def test_overlap() -> None:
    """Half of a union of 3, in an enclosing box of 3; apart by a gap as wide as the boxes; equal."""
    boxes = torch.tensor([[0.0, 0, 2, 1], [0, 0, 1, 1], [3, 4, 5, 6]])
    targets = torch.tensor([[1.0, 0, 3, 1], [2, 0, 3, 1], [3, 4, 5, 6]])
    expected = torch.tensor([1 - 1 / 3, 1 + 1 / 3, 0.0])
    torch.testing.assert_close(overlap_losses(boxes, targets), expected, atol=1e-6, rtol=0)


def test_centerness() -> None:
    box = torch.tensor([0.0, 0.0, 4.0, 8.0]).expand(4, 4)
    points = torch.tensor([[2.0, 4.0], [1.0, 4.0], [1.0, 2.0], [5.0, 4.0]])
    expected = torch.tensor([1.0, math.sqrt(1 / 3), math.sqrt(1 / 3 * 2 / 6), 0.0])
    torch.testing.assert_close(centerness(points, box), expected)
