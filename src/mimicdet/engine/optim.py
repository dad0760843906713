"""The optimiser with its parameter groups and learning rate, and the moving average of what it learns.

The learning rate is a pure function of the step, so there is no scheduler whose state could get lost.
"""

import math

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mimicdet.config import OptimSettings
from mimicdet.models.detector import Trunk
from mimicdet.tasks import Task

Tensors = tuple[Tensor, ...] | list[Tensor]


def freeze_by_settings(task: Task, settings: OptimSettings) -> None:
    """Freezes every backbone where ``optim.backbone_lr_factor`` is 0: no gradient is computed for it at all."""
    if settings.backbone_lr_factor == 0:
        for backbone in _backbones(task):
            backbone.requires_grad_(False)


def parameter_groups(task: Task, settings: OptimSettings) -> list[dict[str, object]]:
    """Returns the trainable parameters of ``task``, grouped by learning-rate factor and weight decay.

    SGD decays every parameter, as the published detectors it is compared with do; AdamW leaves out vectors
    (biases and the parameters of normalisation layers), as is usual with it. A frozen parameter is in no group.
    Each group has its ``lr_factor`` for :func:`set_lr`.
    """
    factors = {id(parameter): settings.head_lr_factor for parameter in task.detector.final_head.parameters()}
    for backbone in _backbones(task):
        factors |= {id(parameter): settings.backbone_lr_factor for parameter in backbone.parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in task.parameters():
        if parameter.requires_grad:
            decay = 0.0 if settings.optimizer == "adamw" and parameter.ndim <= 1 else settings.weight_decay
            groups.setdefault((factors.get(id(parameter), 1.0), decay), []).append(parameter)
    return [{"params": group, "lr_factor": lr, "weight_decay": decay} for (lr, decay), group in groups.items()]


def make_optimizer(task: Task, settings: OptimSettings) -> torch.optim.Optimizer:
    """Makes SGD with momentum or AdamW (betas ``momentum`` and 0.999); `set_lr` gives it its learning rate.

    Uses torch's fused kernels, which read and write each parameter once.
    """
    groups = parameter_groups(task, settings)
    fused = next(task.parameters()).device.type in ("cpu", "cuda")
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr, betas=(settings.momentum, 0.999), fused=fused)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=fused)


def lr_at(step: int, settings: OptimSettings, *, images_per_step: int, steps_per_epoch: int, epochs: int) -> float:
    """Returns the learning rate of optimiser step ``step`` (from 0), before a group's factor.

    Linear scaling (``optim.lr`` is for ``optim.lr_batch`` images a step), times the schedule, times the warm-up.
    """
    lr = settings.lr * images_per_step / settings.lr_batch
    if settings.schedule == "step":
        lr *= settings.gamma ** sum(step >= milestone * steps_per_epoch for milestone in settings.milestones)
    elif settings.schedule == "cosine":
        lr *= 0.5 * (1 + math.cos(math.pi * min(1.0, step / (epochs * steps_per_epoch))))
    if step < settings.warmup_steps:
        lr *= settings.warmup_factor + (1 - settings.warmup_factor) * step / settings.warmup_steps
    return lr


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Gives each group ``lr`` times its ``lr_factor``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def moving_average(task: nn.Module, decay: float) -> AveragedModel:
    """Returns a copy of ``task`` that follows it: call ``update_parameters(task)`` after every step, use ``.module``.

    After n updates the decay is min(decay, (1 + n) / (10 + n)), so that the random initial weights are forgotten
    quickly and short runs profit too. Buffers (batch-norm statistics) are copied as they are.
    Make it before accelerate prepares the task, whose ``forward`` is a bound method of the original afterwards.
    """

    def average(averages: Tensors, weights: Tensors, _: Tensor | int) -> None:
        n = int(copy.n_averaged)  # on the CPU, unlike the argument: reading it does not wait for the GPU
        get_ema_multi_avg_fn(min(decay, (1 + n) / (10 + n)))(averages, weights, n)

    copy = AveragedModel(task, multi_avg_fn=average)
    copy.requires_grad_(False)
    copy.eval()
    return copy


def _backbones(task: Task) -> list[nn.Module]:
    return [module.backbone for module in task.modules() if isinstance(module, Trunk)]
