"""Detection losses: against the formulas box by box, and what must not leak through masks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from mimicdet.losses.mimicdet import box_loss, class_losses, objectness_loss

RAW = (1.0, 1.0, 1.0, 1.0)
HEAD = (0.1, 0.1, 0.2, 0.2)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_objectness_literal():
    logits = (random(3, 20) * 4).requires_grad_()
    positive, valid = random(3, 20, seed=1) > 0.5, random(3, 20, seed=2) > -0.5
    loss = objectness_loss(logits, positive, valid)
    expected = 0.0
    for logit, is_positive, is_valid in zip(
        logits.flatten().tolist(), positive.flatten(), valid.flatten(), strict=True
    ):
        p = 1 / (1 + math.exp(-logit))
        expected -= (math.log(p) if is_positive else math.log(1 - p)) if is_valid else 0
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, (logits.sigmoid() - positive.double()).detach() * valid, atol=1e-12, rtol=0)


def test_objectness_of_certain_anchors_is_finite():
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    loss = objectness_loss(logits, torch.tensor([True, True, False, False]), torch.ones(4, dtype=torch.bool))
    assert loss.item() == 2e4
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == [0, -1, 1, 0]


@pytest.mark.parametrize("std", [RAW, HEAD])
def test_boxes_literal(std: tuple[float, float, float, float]):
    corner = random(2, 6, 2) * 50
    boxes = torch.cat([corner, corner + 5 + random(2, 6, 2, seed=1).abs() * 40], dim=-1)
    targets = boxes + random(2, 6, 4, seed=2)
    deltas = random(2, 6, 4, seed=3).requires_grad_()
    positive = random(2, 6, seed=4) > 0
    loss = box_loss(deltas, targets, boxes, positive, std=std)
    expected = 0.0
    for delta, target, box in zip(
        deltas[positive].tolist(), targets[positive].tolist(), boxes[positive].tolist(), strict=True
    ):
        w, h, tw, th = box[2] - box[0], box[3] - box[1], target[2] - target[0], target[3] - target[1]
        wanted = [
            (target[0] + tw / 2 - box[0] - w / 2) / w,
            (target[1] + th / 2 - box[1] - h / 2) / h,
            math.log(tw / w),
            math.log(th / h),
        ]
        expected += sum(abs(d - t / s) for d, t, s in zip(delta, wanted, std, strict=True))
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss, deltas)
    assert gradient[positive].abs().eq(1).all()
    assert gradient[~positive].eq(0).all()


def test_right_deltas_cost_nothing():
    boxes = torch.tensor([[0.0, 0.0, 10.0, 20.0]], dtype=torch.float64)
    targets = torch.tensor([[5.0, 0.0, 15.0, 40.0]], dtype=torch.float64)
    deltas = torch.tensor([[0.5 / 0.1, 0.5 / 0.1, 0.0, math.log(2) / 0.2]], dtype=torch.float64)
    assert box_loss(deltas, targets, boxes, torch.tensor([True]), std=HEAD).item() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("target", [0.0, 1e30, -1e30, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("box", ["usual", "no area", "huge", "tiny"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_targets_of_negatives_touch_neither_value_nor_gradient(target: float, box: str, dtype: torch.dtype):
    """Placeholders are zero boxes, and refined boxes may have lost their area: encoding those gives infinities."""
    kinds = {
        "usual": [1.0, 1.0, 9.0, 9.0],
        "no area": [3.0, 3.0, 3.0, 3.0],
        "huge": [-1e30, -1e30, 1e30, 1e30],
        "tiny": [0.0, 0.0, 1e-38, 1e-38],
    }
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], kinds[box]], dtype=dtype)
    targets = torch.tensor([[0.0, 0.0, 10.0, 10.0], [target] * 4], dtype=dtype)
    deltas = torch.full((2, 4), 0.5, dtype=dtype, requires_grad=True)
    loss = box_loss(deltas, targets, boxes, torch.tensor([True, False]), std=HEAD)
    assert loss.item() == 2.0
    loss.backward()
    assert deltas.grad is not None
    assert deltas.grad.tolist() == [[1] * 4, [0] * 4]


def test_negatives_alone_leave_zero_gradients_not_none():
    """Every process must touch the same parameters, also one whose images have no objects."""
    deltas = torch.ones(3, 4, requires_grad=True)
    zeros, negative = torch.zeros(3, 4), torch.zeros(3, dtype=torch.bool)
    for n in (3, 0):
        loss = box_loss(deltas[:n], zeros[:n], zeros[:n], negative[:n], std=HEAD)
        (gradient,) = torch.autograd.grad(loss, deltas)
        assert loss.item() == 0
        assert gradient.eq(0).all()


def test_class_losses_literal():
    logits = (random(2, 5, 4) * 3).requires_grad_()
    classes = torch.tensor([[0, 3, -1, 1, 2], [-1, 3, 3, 0, -1]])
    losses = class_losses(logits, classes)
    assert losses.shape == (2, 5)
    for row, wanted, loss in zip(
        logits.flatten(0, 1).tolist(), classes.flatten().tolist(), losses.flatten().tolist(), strict=True
    ):
        expected = 0 if wanted < 0 else math.log(sum(math.exp(x) for x in row)) - row[wanted]
        assert loss == pytest.approx(expected, rel=1e-12)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    onehot = torch.nn.functional.one_hot(classes.clamp(min=0), 4)
    expected_gradient = (logits.softmax(-1) - onehot).detach() * (classes >= 0)[..., None]
    torch.testing.assert_close(gradient, expected_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (2, 3), (0,), (2, 0)])
def test_all_ignored_or_none_at_all(shape: tuple[int, ...]):
    logits = torch.randn(*shape, 5, requires_grad=True)
    losses = class_losses(logits, torch.full(shape, -1))
    assert losses.shape == shape
    assert losses.eq(0).all()
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad.eq(0).all()


def test_logits_of_ignored_boxes_may_be_anything():
    logits = torch.tensor([[math.nan, 1.0], [math.inf, 0.0], [2.0, 2.0], [-1e30, 1e30]], requires_grad=True)
    losses = class_losses(logits, torch.tensor([-1, -1, 0, 1]))
    assert losses.tolist() == pytest.approx([0, 0, math.log(2), 0])
    losses.sum().backward()
    assert logits.grad is not None
    assert logits.grad[2:].isfinite().all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_float32_under_autocast(half: torch.dtype):
    """Heads hand over float32; the sums stay there."""
    logits, yes = torch.zeros(4, 3), torch.ones(4, dtype=torch.bool)
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(4, 1)
    with torch.autocast("cpu", half):
        assert class_losses(logits, torch.zeros(4, dtype=torch.int64)).dtype == torch.float32
        assert objectness_loss(logits[:, 0], yes, yes).dtype == torch.float32
        assert box_loss(torch.zeros(4, 4), boxes, boxes, yes, std=HEAD).dtype == torch.float32
