"""Soft labels against the divergence written out."""

from __future__ import annotations

import math

import pytest
import torch

from mimicdet.losses.soft_labels import soft_label_divergences


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergence(temperature: float) -> None:
    teacher, student = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = soft_label_divergences(teacher, student, temperature=temperature)
    for t, s, value in zip(*(x.flatten().tolist() for x in (teacher, student, found)), strict=True):
        p, q = (1 / (1 + math.exp(-z / temperature)) for z in (t, s))
        expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
        assert math.isclose(value, temperature**2 * expected, rel_tol=1e-9)
    assert soft_label_divergences(teacher, teacher, temperature=temperature).abs().max() < 1e-12
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: soft_label_divergences(teacher, s, temperature=temperature), (student,))


def test_extreme_logits_stay_finite() -> None:
    teacher, student = torch.tensor([-30.0, 80.0, -80.0]), torch.tensor([80.0, -80.0, -80.0], requires_grad=True)
    found = soft_label_divergences(teacher, student, temperature=1.0)
    found.sum().backward()
    assert found.isfinite().all()
    assert found[2] == 0
