"""The mimic loss: closed forms of equation 1."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mimicdet.losses.mimicdet import ClassMimic, class_mimic_distances, cosine_distances
from mimicdet.models.s_head import HeadOutput

KINDS: tuple[ClassMimic, ...] = get_args(ClassMimic)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def head(logits: Tensor, feature: Tensor) -> HeadOutput:
    """Of a classification path; what the regression path says must not matter."""
    nothing = torch.full((len(logits), 4), torch.nan)
    return HeadOutput(logits, nothing, feature, nothing)


def classify(kind: ClassMimic, sign: float = 1.0, scale: float = 1.0) -> Tensor:
    """Distances between a teacher and a student that is the teacher times ``sign * scale``."""
    logits, feature = random(7, 6), random(7, 32, seed=1)
    return class_mimic_distances(kind, head(logits, feature), head(sign * scale * logits, sign * scale * feature))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), width=st.integers(1, 40), scale=st.floats(1e-3, 1e3))
def test_literal(seed: int, width: int, scale: float):
    teacher, student = random(5, width, seed=seed), scale * random(5, width, seed=seed + 1)
    for t, s, distance in zip(
        teacher.tolist(), student.tolist(), cosine_distances(teacher, student).tolist(), strict=True
    ):
        dot = sum(a * b for a, b in zip(t, s, strict=True))
        assert distance == pytest.approx(1 - dot / (math.hypot(*t) * math.hypot(*s)), abs=1e-9)
    assert torch.allclose(cosine_distances(teacher, student), cosine_distances(student, teacher), atol=1e-12)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_zero_when_equal_or_scaled_and_two_a_path_when_opposite(scale: float):
    feature = random(7, 32)
    torch.testing.assert_close(cosine_distances(feature, scale * feature), torch.zeros(7).double(), atol=1e-9, rtol=0)
    torch.testing.assert_close(cosine_distances(feature, -scale * feature), torch.full((7,), 2.0).double())
    for kind in KINDS:
        paths = 2 if kind == "both" else 1
        torch.testing.assert_close(classify(kind, 1, scale), torch.zeros(7).double(), atol=1e-9, rtol=0)
        torch.testing.assert_close(classify(kind, -1, scale), torch.full((7,), 2.0 * paths).double())


def test_right_angles_cost_one():
    assert cosine_distances(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])).item() == 1


def test_each_kind_reads_what_it_says():
    tl, sl, tf, sf = random(4, 6), random(4, 6, seed=1), random(4, 9, seed=2), random(4, 9, seed=3)

    def distance(kind: ClassMimic) -> Tensor:
        return class_mimic_distances(kind, head(tl, tf), head(sl, sf))

    assert torch.equal(distance("logits"), cosine_distances(tl, sl))
    assert torch.equal(distance("feature"), cosine_distances(tf, sf))
    torch.testing.assert_close(distance("both"), distance("logits") + distance("feature"))
    centred = [torch.stack([row - sum(row.tolist()) / 6 for row in logits]) for logits in (tl, sl)]
    torch.testing.assert_close(distance("centred_logits"), cosine_distances(*centred))
    assert not torch.allclose(distance("centred_logits"), distance("logits"))


def test_centred_logits_ignore_what_softmax_ignores():
    teacher, student, feature = random(4, 6), random(4, 6, seed=1), random(4, 9)
    before = class_mimic_distances("centred_logits", head(teacher, feature), head(student, feature))
    shift = torch.tensor([[5.0], [-30.0], [0.0], [100.0]], dtype=torch.float64)
    after = class_mimic_distances("centred_logits", head(teacher, feature), head(student + shift, feature))
    torch.testing.assert_close(after, before, atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind: ClassMimic):
    tensors = [random(3, n, seed=i).requires_grad_() for i, n in enumerate((5, 5, 8, 8))]

    def f(tl: Tensor, sl: Tensor, tf: Tensor, sf: Tensor) -> Tensor:
        return class_mimic_distances(kind, head(tl, tf), head(sl, sf))

    assert torch.autograd.gradcheck(f, tensors)


def test_gradient_turns_the_student_towards_the_teacher_and_never_scales_it():
    teacher, student = random(6, 10), random(6, 10, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(cosine_distances(teacher, student).sum(), student)
    assert (gradient * student).sum(-1).abs().max() < 1e-12
    assert (cosine_distances(teacher, student - 1e-3 * gradient) < cosine_distances(teacher, student)).all()


def test_rows_of_zeros():
    """ReLU features can be zero in a whole row: distance one, nothing that is not finite."""
    teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]])
    student = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]], requires_grad=True)
    distances = cosine_distances(teacher, student)
    assert distances.tolist() == [1, 1, 1]
    distances.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()
    assert student.grad[1:].eq(0).all()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_features_are_compared_in_float32(half: torch.dtype):
    """Squares of 1024 features of 300 do not fit float16."""
    feature = torch.full((2, 1024), 300.0, dtype=half)
    with torch.autocast("cpu", half):
        distances = cosine_distances(feature, feature)
    assert distances.dtype == torch.float32
    assert distances.abs().max() < 1e-5


def test_no_boxes():
    student = torch.zeros(0, 8, requires_grad=True)
    distances = cosine_distances(torch.zeros(0, 8), student)
    assert distances.shape == (0,)
    distances.sum().backward()
    assert student.grad is not None
