"""Learning rates against closed forms, updates against the formulas, who is in which group."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mimicdet import tasks
from mimicdet.config import SETTINGS_OF, OptimSettings, settings_from
from mimicdet.engine.optim import freeze_by_settings, lr_at, make_optimizer, parameter_groups, set_lr
from mimicdet.models.detector import DetectionModel, Trunk
from mimicdet.tasks import build_task


def trunk(backbone: nn.Module) -> Trunk:
    return Trunk(backbone=backbone, pyramid=nn.Identity())  # type: ignore[arg-type]


class OneLayer(DetectionModel):
    """A backbone whose first layer is frozen, and a head."""

    def __init__(self) -> None:
        layers = (nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 2, 1, bias=False))
        super().__init__(trunk=trunk(nn.Sequential(*layers)), num_classes=2)
        self.head = nn.Linear(2, 3)
        layers[0].requires_grad_(False)

    @property
    def final_head(self) -> nn.Module:
        return self.head


class Task(tasks.Task):
    """A teacher beside the detector, with a trunk of its own."""

    def __init__(self) -> None:
        super().__init__(detector=OneLayer())
        self.t_head = nn.Linear(2, 2)
        self.own_trunk = trunk(nn.Linear(5, 1, bias=False))


def optim(**values: Any) -> OptimSettings:
    return OptimSettings(**{"lr": 0.04, "lr_batch": 32, "warmup_steps": 0, **values})


def lr(step: int, settings: OptimSettings, images: int = 32) -> float:
    return lr_at(step, settings, images_per_step=images, steps_per_epoch=100, epochs=12)


def test_linear_scaling() -> None:
    assert lr(0, optim(schedule="constant"), images=32) == 0.04
    assert lr(0, optim(schedule="constant"), images=8) == pytest.approx(0.01)


def test_steps_fall_after_the_milestones() -> None:
    settings = optim(schedule="step", milestones=(8.0, 11.0), gamma=0.1)
    assert [lr(step, settings) for step in (0, 799, 800, 1099, 1100, 1199)] == pytest.approx(
        [0.04, 0.04, 0.004, 0.004, 0.0004, 0.0004]
    )
    assert lr(250, optim(milestones=(2.5,))) == pytest.approx(0.004)


def test_cosine_goes_from_all_to_nothing() -> None:
    settings = optim(schedule="cosine")
    assert [lr(step, settings) for step in (0, 300, 600, 1200, 1300)] == pytest.approx(
        [0.04, 0.04 * (1 + math.sqrt(0.5)) / 2, 0.02, 0, 0], abs=1e-12
    )


def test_warm_up_rises_linearly_and_multiplies_the_schedule() -> None:
    settings = optim(schedule="constant", warmup_steps=10, warmup_factor=0.1)
    assert [lr(step, settings) / 0.04 for step in (0, 5, 10, 11)] == pytest.approx([0.1, 0.55, 1, 1])
    late = optim(milestones=(0.05,), warmup_steps=10, warmup_factor=0.1)
    assert lr(5, late) == pytest.approx(0.04 * 0.1 * 0.55)


def sizes(groups: list[dict[str, Any]]) -> dict[tuple[float, float], int]:
    """(lr factor, weight decay) -> number of values."""
    return {(g["lr_factor"], g["weight_decay"]): sum(p.numel() for p in g["params"]) for g in groups}


def test_sgd_decays_everything_that_learns() -> None:
    task = Task()
    groups = parameter_groups(task, optim(weight_decay=1e-4))
    assert sizes(groups) == {(1.0, 1e-4): 4 + 4 + 9 + 6 + 5}  # batch norm, convolution, head, T-head and its backbone


def test_adamw_spares_biases_and_normalisation_and_slows_the_backbone() -> None:
    task = Task()
    settings = optim(optimizer="adamw", weight_decay=0.01, backbone_lr_factor=0.2)
    groups = parameter_groups(task, settings)
    assert sizes(groups) == {(0.2, 0.0): 4, (0.2, 0.01): 4 + 5, (1.0, 0.01): 6 + 4, (1.0, 0.0): 3 + 2}
    optimizer = make_optimizer(task, settings)
    set_lr(optimizer, 0.5)
    assert {g["lr"] for g in optimizer.param_groups} == {0.1, 0.5}


def test_the_head_that_ships_may_learn_faster() -> None:
    task = Task()
    groups = parameter_groups(task, optim(optimizer="adamw", head_lr_factor=4.0, backbone_lr_factor=0.5))
    assert sizes(groups) == {
        (0.5, 0.0): 4,
        (0.5, 1e-4): 4 + 5,
        (4.0, 1e-4): 6,
        (4.0, 0.0): 3,
        (1.0, 1e-4): 4,
        (1.0, 0.0): 2,
    }


@pytest.mark.parametrize("family", list(SETTINGS_OF))
def test_every_family_has_a_head(family: str) -> None:
    model = {"family": family, "weights": "random", "backbone": "tf_efficientnet_lite0.in1k", "pyramid_channels": 64}
    settings = settings_from({"task": "detect", "model": model, "optim": {"head_lr_factor": 3.0}})
    task = build_task(settings, class_names=["a", "b"], pretrained=False)
    fast = [g["params"] for g in parameter_groups(task, settings.optim) if g["lr_factor"] == 3]
    names = {name for name, p in task.named_parameters() for group in fast for q in group if p is q}  # type: ignore[attr-defined]
    assert names
    assert {name.split(".")[1] for name in names} <= {"s_head", "head", "roi_heads"}
    others = {name.split(".")[1] for name, p in task.named_parameters() if p.requires_grad and name not in names}
    assert others <= {"trunk", "refinement", "rpn"}


def test_factor_zero_freezes_the_backbone() -> None:
    task = Task()
    settings = optim(backbone_lr_factor=0.0)
    freeze_by_settings(task, settings)
    assert sizes(parameter_groups(task, settings)) == {(1.0, 1e-4): 9 + 6}
    assert not any(p.requires_grad for p in task.detector.trunk.backbone.parameters())
    assert not any(p.requires_grad for p in task.own_trunk.parameters())


def test_sgd_against_its_formula() -> None:
    task = Task()
    optimizer = make_optimizer(task, optim(momentum=0.9, weight_decay=0.1))
    weight = task.t_head.weight
    expected, velocity = weight.detach().clone(), torch.zeros_like(weight)
    for step_lr in (0.5, 0.25):
        weight.grad = gradient = torch.randn_like(weight)
        velocity = 0.9 * velocity + gradient + 0.1 * expected
        expected = expected - step_lr * velocity
        set_lr(optimizer, step_lr)
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected)


def test_adamw_against_its_formula() -> None:
    task = Task()
    optimizer = make_optimizer(task, optim(optimizer="adamw", momentum=0.8, weight_decay=0.1))
    weight, bias = task.t_head.weight, task.t_head.bias
    gradients = [torch.randn_like(weight), torch.randn_like(bias)]
    weight.grad, bias.grad = gradients
    starts = [weight.detach().clone(), bias.detach().clone()]
    set_lr(optimizer, 0.01)
    optimizer.step()

    def first_step(start: Tensor, gradient: Tensor, decay: float) -> Tensor:
        return start * (1 - 0.01 * decay) - 0.01 * gradient / (gradient.abs() + 1e-8)

    torch.testing.assert_close(weight.detach(), first_step(starts[0], gradients[0], 0.1))
    torch.testing.assert_close(bias.detach(), first_step(starts[1], gradients[1], 0.0))
    assert optimizer.defaults["betas"] == (0.8, 0.999)
