"""One optimiser step: forward and backward of its batches, the finite check, clipping, the update.

A step is taken only when loss and gradients are finite on every process; all decide alike.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from mimicdet.data.batch import Batch
from mimicdet.engine.optim import set_lr
from mimicdet.errors import UserError
from mimicdet.inference.detect import memory_errors_explained
from mimicdet.tasks.task import WholeStep

MOST_FILES_NAMED = 12
_WAY_OUT = (
    "lower train.batch_size (optim.accumulate makes up for it), data.shorter_side and data.longer_side, or set "
    "train.precision to bf16"
)


class StepResult(NamedTuple):
    """Holds what a step has to tell. Tensors are detached, on the device, and of this process."""

    names: tuple[str, ...]  # the task's loss, its parts and its diagnostics ...
    values: Tensor  # ... and their values (names,), averaged over the step's batches
    losses: Tensor  # (batches,), the loss of each batch
    norms: dict[str, Tensor]  # 0-d, before clipping: "grad_norm", and "grad_norm/<module>" where they were asked for
    taken: bool  # the weights were changed
    bad: bool  # the step was skipped because loss or gradient is not finite
    stop: bool  # some process was asked to stop


class Verdict(NamedTuple):
    """Says what all processes agree on after the backward pass of a step."""

    losses_finite: bool
    gradients_finite: bool
    stop: bool  # some process was asked to stop

    @property
    def finite(self) -> bool:
        """Says whether every process's losses and gradients are finite."""
        return self.losses_finite and self.gradients_finite


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
        """Takes one step on the mean gradient over all processes; UserError when the memory does not hold a batch."""
        self.optimizer.zero_grad()
        outputs = self._backward(batches)
        losses = torch.stack([output["loss"].detach() for output in outputs])
        values = torch.stack([torch.stack([v.detach().float() for v in output.values()]) for output in outputs])

        self.accelerator.unscale_gradients(self.optimizer)
        norms = gradient_norms(self.modules) if norms_by_module else {}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms["grad_norm"] = get_total_norm([p.grad for p in parameters])
        verdict = agree(self.accelerator, losses=losses, grad_norm=norms["grad_norm"], stop=stop)
        if verdict.finite:
            if self.clip:
                clip_grads_with_norm_(parameters, self.clip, norms["grad_norm"])
            set_lr(self.optimizer, lr)
            self.optimizer.step()
        elif self.accelerator.scaler is not None:
            self.accelerator.scaler.update()
        bad = not verdict.losses_finite or not (verdict.gradients_finite or self._will_rescale())
        return StepResult(tuple(outputs[-1]), values.mean(0), losses, norms, verdict.finite, bad, verdict.stop)

    def _backward(self, batches: Sequence[Batch]) -> list[dict[str, Tensor]]:
        device = self.accelerator.device
        shared: tuple[WholeStep, ...] = ()
        if len(batches) > 1:
            batches = [batch.to(device) for batch in batches]
            shared = (WholeStep(torch.stack([self.count_positives(b) for b in batches]).sum(), len(batches)),)
        outputs = []
        for number, batch in enumerate(batches, start=1):
            # Gradients travel between processes once, with the last batch's.
            syncing = nullcontext() if number == len(batches) else self.accelerator.no_sync(self.model)
            objects = f" with up to {batch.labels.shape[1]} objects each"
            with syncing, memory_errors_explained(batch.images, device, _WAY_OUT, objects):
                output = self.model(batch.to(device), *shared)
                self.accelerator.backward(output["loss"])
            outputs.append({name: value.detach() for name, value in output.items()})
        return outputs

    def _will_rescale(self) -> bool:
        """Whether a gradient that is not finite is fp16's ordinary overflow: the scaler halves its scale, goes on."""
        scaler = self.accelerator.scaler
        return scaler is not None and scaler.get_scale() > 1


def gradient_norms(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Maps "grad_norm/<name>" to the norm of all gradients in the module, for each module that has any."""
    gradients = {name: [p.grad for p in module.parameters() if p.grad is not None] for name, module in modules.items()}
    return {f"grad_norm/{name}": get_total_norm(tensors) for name, tensors in gradients.items() if tensors}


def agree(accelerator: Accelerator, *, losses: Tensor, grad_norm: Tensor, stop: bool) -> Verdict:
    """Asks all processes with one all-reduce and one wait for the device, a step's only ones but the gradients' own.

    ``losses`` have any shape; ``grad_norm`` is 0-d, over all gradients.
    """
    asked = torch.full_like(grad_norm, float(stop))  # on the device already: `tensor` would be a copy to it
    flags = torch.stack([(~torch.isfinite(losses)).any(), ~torch.isfinite(grad_norm), asked > 0]).float()
    if accelerator.num_processes > 1:
        flags = accelerator.reduce(flags, reduction="sum")
    bad_losses, bad_gradients, stop_requests = flags.tolist()
    return Verdict(not bad_losses, not bad_gradients, stop_requests > 0)


def too_many_bad_steps(
    accelerator: Accelerator, *, steps: int, batches: Sequence[Batch], losses: Tensor, step: int
) -> UserError:
    """Returns the error that ends training; every process must call this, for each knows only its own images.

    ``steps`` were bad in a row, the last of them, ``step`` (from 1), on ``batches`` with ``losses`` (len(batches),).
    """
    finite = torch.isfinite(losses).tolist()
    suspects = [file for batch, fine in zip(batches, finite, strict=True) if not fine for file in batch.files]
    what, files = "loss is", gather_object(suspects)
    if not files:
        what, files = "gradient is", gather_object([file for batch in batches for file in batch.files])
    named = ", ".join(files[:MOST_FILES_NAMED])
    more = f" and {len(files) - MOST_FILES_NAMED} more" if len(files) > MOST_FILES_NAMED else ""
    ending = "th" if 10 <= steps % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(steps % 10, "th")
    return UserError(
        f"training stopped at step {step}: the {what} not finite for the {steps}{ending} step in a row, this time on "
        f"the images {named}{more}; look at their boxes, lower optim.lr, lengthen optim.warmup_steps or set "
        "optim.clip_grad_norm, and start again"
    )
