"""An exponential moving average of the weights, which is then evaluated and shipped."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


def moving_average(task: nn.Module, decay: float) -> AveragedModel:
    """A copy of ``task`` that follows it: call ``update_parameters(task)`` after every step, use ``.module``.

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
