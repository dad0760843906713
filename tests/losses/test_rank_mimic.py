"""Rank Mimicking against literal loops over objects and positives, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mimicdet.losses.rank_mimic import rank_divergences, rank_loss


def literal(teacher: Tensor, student: Tensor, group: Tensor, groups: int, temperature: float) -> list[float]:
    found = []
    for k in range(groups):
        t = [v / temperature for v, g in zip(teacher.tolist(), group.tolist(), strict=True) if g == k]
        s = [v / temperature for v, g in zip(student.tolist(), group.tolist(), strict=True) if g == k]
        p_t = [math.exp(v) / sum(math.exp(u) for u in t) for v in t]
        p_s = [math.exp(v) / sum(math.exp(u) for u in s) for v in s]
        found.append(sum(p * math.log(p / q) for p, q in zip(p_t, p_s, strict=True)))
    return found


def draw(count: int, groups: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, count, generator=generator, dtype=torch.float64) * 3
    return teacher, student, torch.randint(0, groups, (count,), generator=generator)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(1, 6), st.floats(0.2, 5), st.integers(0, 2**20))
def test_divergences(count: int, groups: int, temperature: float, seed: int) -> None:
    teacher, student, group = draw(count, groups, seed)
    found = rank_divergences(teacher, student, group, groups, temperature=temperature)
    torch.testing.assert_close(
        found,
        torch.tensor(literal(teacher, student, group, groups, temperature), dtype=torch.float64),
        atol=1e-10,
        rtol=1e-10,
    )
    assert (found >= -1e-12).all()


def test_zero_where_student_and_teacher_rank_alike() -> None:
    """Equal, or apart by a constant per object; one positive alone has nothing to be ranked against."""
    teacher, _, group = draw(20, 3, 0)
    shift = torch.tensor([1.0, -2.0, 5.0], dtype=torch.float64)[group]
    assert rank_divergences(teacher, teacher + shift, group, 3, temperature=1.0).abs().max() < 1e-12
    alone = rank_divergences(torch.tensor([3.0]), torch.tensor([-1.0]), torch.tensor([0]), 1, temperature=1.0)
    assert alone.item() == 0


def test_gradients() -> None:
    teacher, student, group = draw(8, 2, 1)
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: rank_divergences(teacher, s, group, 2, temperature=0.7), (student,))


def test_large_scores_do_not_overflow() -> None:
    teacher, student = torch.tensor([1e4, -1e4, 0.0]), torch.tensor([-1e4, 1e4, 0.0], requires_grad=True)
    loss = rank_divergences(teacher, student, torch.zeros(3, dtype=torch.int64), 1, temperature=1.0).sum()
    loss.backward()
    assert loss.isfinite()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_mean_over_objects_then_images() -> None:
    """The second image has one object of two rows, the third none."""
    divergences = torch.tensor([1.0, 3.0, 5.0, 0.0, 0.0, 0.0])
    objects = torch.tensor([[True, True], [True, False], [False, False]])
    assert rank_loss(divergences, objects).item() == pytest.approx((2 + 5 + 0) / 3)


def test_no_objects_at_all_cost_nothing_and_stay_in_the_graph() -> None:
    student = torch.zeros(0, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.int64)
    loss = rank_loss(rank_divergences(torch.zeros(0), student, nothing, 2, temperature=1.0), torch.zeros(2, 1) > 0)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
