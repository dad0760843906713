"""Soft labels against the divergence written out."""

from __future__ import annotations

import math

import pytest
import torch

from mimicdet.losses.soft_labels import class_divergences, soft_label_divergences


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


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_divergence_of_classes_that_exclude_each_other(temperature: float) -> None:
    teacher, student = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = class_divergences(teacher, student, temperature=temperature)
    assert found.shape == (3,)
    for t, s, value in zip(*(x.tolist() for x in (teacher, student, found)), strict=True):
        p, q = ([math.exp(z / temperature) for z in row] for row in (t, s))
        p, q = [a / sum(p) for a in p], [b / sum(q) for b in q]
        expected = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        assert math.isclose(value, temperature**2 * expected, rel_tol=1e-9)
    assert class_divergences(teacher, teacher + 3, temperature=temperature).abs().max() < 1e-12
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: class_divergences(teacher, s, temperature=temperature), (student,))


def test_a_class_without_any_chance_stays_finite() -> None:
    teacher = torch.tensor([[-500.0, 0.0], [0.0, 500.0]])
    student = torch.tensor([[0.0, -500.0], [0.0, 500.0]], requires_grad=True)
    found = class_divergences(teacher, student, temperature=1.0)
    found.sum().backward()
    assert found.tolist() == [500, 0]
    assert student.grad is not None
    assert student.grad.isfinite().all()
