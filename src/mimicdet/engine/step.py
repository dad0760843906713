"""One optimiser step: forward and backward of its batches, the finite check, clipping, the update."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from mimicdet.data.batch import Batch
from mimicdet.engine.finite import agree
from mimicdet.engine.optim import set_lr
from mimicdet.errors import UserError
from mimicdet.inference.detect import lacks_memory
from mimicdet.tasks.task import WholeStep


class StepResult(NamedTuple):
    """What a step has to tell. Tensors are detached, on the device, and of this process."""

    names: tuple[str, ...]
    """The task's loss, its parts and its diagnostics ..."""
    values: Tensor
    """... and their values (names,), averaged over the step's batches."""
    losses: Tensor
    """(batches,), the loss of each batch."""
    norms: dict[str, Tensor]
    """0-d gradient norms before clipping: "grad_norm", and "grad_norm/<module>" where they were asked for."""
    taken: bool
    """The weights were changed."""
    bad: bool
    """The step was skipped because loss or gradient is not finite."""
    stop: bool
    """Some process was asked to stop."""


@dataclass(frozen=True)
class Stepper:
    """Takes steps.

    Attributes:
        model: the task as accelerate prepared it: ``model(batch) -> {"loss": ..., parts}``.
        modules: name -> module, whose gradient norms are told apart.
        clip: largest gradient norm; 0 is no limit.
        count_positives: the task's count of a batch's positive anchors; the batches of a step are divided by what all
            of them have.
    """

    accelerator: Accelerator
    model: nn.Module
    optimizer: AcceleratedOptimizer
    modules: Mapping[str, nn.Module]
    clip: float
    count_positives: Callable[[Batch], Tensor]

    def __call__(self, batches: Sequence[Batch], *, lr: float, norms_by_module: bool, stop: bool) -> StepResult:
        """One step on the mean gradient of ``batches`` over all processes.

        Raises:
            UserError: the device's memory does not hold a batch.
        """
        self.optimizer.zero_grad()
        names: tuple[str, ...] = ()
        values, losses = [], []
        shared: tuple[WholeStep, ...] = ()
        if len(batches) > 1:
            batches = [batch.to(self.accelerator.device) for batch in batches]
            shared = (WholeStep(torch.stack([self.count_positives(b) for b in batches]).sum(), len(batches)),)
        for number, batch in enumerate(batches, start=1):
            # Gradients travel between processes once, with the last batch's.
            last = number == len(batches)
            with (
                contextlib.nullcontext() if last else self.accelerator.no_sync(self.model),
                _memory_errors_explained(batch),
            ):
                output = self.model(batch.to(self.accelerator.device), *shared)
                self.accelerator.backward(output["loss"])
            names = tuple(output)
            values.append(torch.stack([value.detach().float() for value in output.values()]))
            losses.append(output["loss"].detach())

        self.accelerator.unscale_gradients(self.optimizer)
        norms = gradient_norms(self.modules) if norms_by_module else {}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms["grad_norm"] = get_total_norm([p.grad for p in parameters])
        all_losses = torch.stack(losses)
        verdict = agree(self.accelerator, losses=all_losses, grad_norm=norms["grad_norm"], stop=stop)
        if verdict.finite:
            if self.clip:
                clip_grads_with_norm_(parameters, self.clip, norms["grad_norm"])
            set_lr(self.optimizer, lr)
            self.optimizer.step()
        elif self.accelerator.scaler is not None:
            self.accelerator.scaler.update()
        return StepResult(
            names=names,
            values=torch.stack(values).mean(0),
            losses=all_losses,
            norms=norms,
            taken=verdict.finite,
            bad=not verdict.losses_finite or not (verdict.gradients_finite or self._will_rescale()),
            stop=verdict.stop,
        )

    def _will_rescale(self) -> bool:
        """Whether a gradient that is not finite is fp16's ordinary overflow: the scaler halves its scale, goes on."""
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.get_scale() > 1


def gradient_norms(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """ "grad_norm/<name>" -> the norm of all gradients in the module, for each module that has any."""
    gradients = {name: [p.grad for p in module.parameters() if p.grad is not None] for name, module in modules.items()}
    return {f"grad_norm/{name}": get_total_norm(tensors) for name, tensors in gradients.items() if tensors}


@contextlib.contextmanager
def _memory_errors_explained(batch: Batch) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not lacks_memory(error):
            raise
        images, _, height, width = batch.images.shape
        raise UserError(
            f"out of memory on a batch of {images} image(s) padded to {height} x {width} pixels with up to "
            f"{batch.labels.shape[1]} objects each: lower train.batch_size (optim.accumulate makes up for it), "
            "data.shorter_side and data.longer_side, or set train.precision to bf16"
        ) from error
