"""Feature imitation against literal loops over cells, classes and channels, in float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mimicdet.losses.comparison import LevelPair
from mimicdet.losses.feature_imitation import (
    correlation_loss,
    imitation_loss,
    prediction_difference,
    whole_map_loss,
)

B, H, W, N, K, C = 2, 3, 4, 2, 3, 5


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


TEACHER, STUDENT = (random(B, H * W, N, K, seed=s).sigmoid() for s in (0, 1))
T_MAP, S_MAP = (random(B, C, H, W, seed=s) for s in (2, 3))
VALID = torch.arange(H * W).expand(B, -1) < torch.tensor([[12], [7]])
KNOWN = torch.tensor([True, False, True])


def literal_differences() -> tuple[list[list[float]], list[list[float]]]:
    prediction = [
        [
            sum((TEACHER[b, i, n, k] - STUDENT[b, i, n, k]).item() ** 2 for n in range(N) for k in (0, 2)) / (2 * N)
            for i in range(H * W)
        ]
        for b in range(B)
    ]
    squares = (T_MAP - S_MAP).square().flatten(2)
    feature = [[sum(squares[b, c, i].item() for c in range(C)) / C for i in range(H * W)] for b in range(B)]
    return prediction, feature


def feature_difference(teacher: Tensor, student: Tensor) -> Tensor:
    return LevelPair(teacher, student, TEACHER, STUDENT, VALID).feature_difference


def test_differences() -> None:
    prediction, feature = literal_differences()
    found = prediction_difference(TEACHER, STUDENT, known=KNOWN)
    torch.testing.assert_close(found, torch.tensor(prediction, dtype=torch.float64), atol=1e-10, rtol=0)
    torch.testing.assert_close(
        feature_difference(T_MAP, S_MAP), torch.tensor(feature, dtype=torch.float64), atol=1e-10, rtol=0
    )


def test_imitation() -> None:
    prediction, feature = literal_differences()
    cells = [(b, i) for b in range(B) for i in range(H * W) if VALID[b, i]]
    mean = sum(prediction[b][i] for b, i in cells) / len(cells)
    expected = sum(prediction[b][i] / mean * feature[b][i] for b, i in cells) / len(cells)
    apart = prediction_difference(TEACHER, STUDENT, known=KNOWN)
    found = imitation_loss(apart, feature_difference(T_MAP, S_MAP), VALID)
    assert math.isclose(found.item(), expected, rel_tol=1e-10)


def test_features_learn_and_scores_do_not() -> None:
    def loss(scores: Tensor, feature: Tensor) -> Tensor:
        prediction = prediction_difference(TEACHER, scores, known=KNOWN)
        return imitation_loss(prediction, feature_difference(T_MAP, feature), VALID)

    scores, feature = STUDENT.clone().requires_grad_(), S_MAP.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda f: loss(STUDENT, f), (feature,))
    assert torch.autograd.gradcheck(lambda s: prediction_difference(TEACHER, s, known=KNOWN), (scores,))
    assert not loss(scores, S_MAP).requires_grad


def test_nothing_to_learn_costs_nothing() -> None:
    """Equal features, equal predictions, or no cell that is not padding; gradients are finite."""
    none = torch.zeros_like(VALID)
    for scores, feature, valid in ((TEACHER, S_MAP, VALID), (STUDENT, T_MAP, VALID), (STUDENT, S_MAP, none)):
        student = feature.clone().requires_grad_()
        prediction = prediction_difference(TEACHER, scores, known=KNOWN)
        loss = imitation_loss(prediction, feature_difference(T_MAP, student), valid)
        loss.backward()
        assert loss.item() == 0
        assert student.grad is not None
        assert student.grad.isfinite().all()


def test_whole_map() -> None:
    _, feature = literal_differences()
    values = [feature[b][i] for b in range(B) for i in range(H * W) if VALID[b, i]]
    found = whole_map_loss(feature_difference(T_MAP, S_MAP), VALID)
    assert math.isclose(found.item(), sum(values) / len(values), rel_tol=1e-10)


def test_correlation_is_pearsons() -> None:
    kept = VALID.flatten()
    expected = 0.0
    for c in range(C):
        pair = torch.stack([m[:, c].flatten()[kept] for m in (T_MAP, S_MAP)])
        expected += 1 - torch.corrcoef(pair)[0, 1].item()
    assert math.isclose(correlation_loss(T_MAP, S_MAP, VALID).item(), expected / C, rel_tol=1e-10)
    scaled = 3 * T_MAP + random(1, C, 1, 1, seed=5)
    assert abs(correlation_loss(T_MAP, scaled, VALID).item()) < 1e-12
    student = S_MAP.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: correlation_loss(T_MAP, s, VALID), (student,))


def test_a_constant_channel_has_correlation_nought_and_finite_gradients() -> None:
    student = torch.ones_like(S_MAP).requires_grad_()
    loss = correlation_loss(T_MAP, student, VALID)
    loss.backward()
    assert loss.item() == 1
    assert student.grad is not None
    assert student.grad.isfinite().all()
