"""A step is taken only when loss and gradients are finite on every process; all decide alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from mimicdet.data.batch import Batch
from mimicdet.errors import UserError

MOST_FILES_NAMED = 12


class Verdict(NamedTuple):
    """What all processes agree on after the backward pass of a step."""

    losses_finite: bool
    """Every process's losses are finite."""
    gradients_finite: bool
    stop: bool
    """Some process was asked to stop."""

    @property
    def finite(self) -> bool:
        return self.losses_finite and self.gradients_finite


def agree(accelerator: Accelerator, *, losses: Tensor, grad_norm: Tensor, stop: bool) -> Verdict:
    """One all-reduce and one wait for the device, the only ones of a step besides the gradients' own.

    Args:
        losses: this process's losses, any shape.
        grad_norm: 0-d, over all gradients.
        stop: this process was asked to stop.
    """
    asked = torch.full_like(grad_norm, float(stop))  # on the device already: `tensor` would be a copy to it
    flags = torch.stack([(~torch.isfinite(losses)).any(), ~torch.isfinite(grad_norm), asked > 0]).float()
    if accelerator.num_processes > 1:
        flags = accelerator.reduce(flags, reduction="sum")
    bad_losses, bad_gradients, stop_requests = flags.tolist()
    return Verdict(losses_finite=not bad_losses, gradients_finite=not bad_gradients, stop=stop_requests > 0)


def too_many_bad_steps(
    accelerator: Accelerator, *, steps: int, batches: Sequence[Batch], losses: Tensor, step: int
) -> UserError:
    """The error that ends training; every process must call this, for each knows only its own images.

    Args:
        steps: bad steps in a row.
        batches: this process's batches of the last of them.
        losses: (len(batches),), the loss of each.
        step: which step it was, from 1.
    """
    finite = torch.isfinite(losses).tolist()
    suspects = [file for batch, fine in zip(batches, finite, strict=True) if not fine for file in batch.files]
    files = gather_object(suspects)
    what = "loss is"
    if not files:
        what = "gradient is"
        files = gather_object([file for batch in batches for file in batch.files])
    named = ", ".join(files[:MOST_FILES_NAMED])
    more = f" and {len(files) - MOST_FILES_NAMED} more" if len(files) > MOST_FILES_NAMED else ""
    return UserError(
        f"training stopped at step {step}: the {what} not finite for the {_ordinal(steps)} step in a row, this time on "
        f"the images {named}{more}; look at their boxes, lower optim.lr, lengthen optim.warmup_steps or set "
        "optim.clip_grad_norm, and start again"
    )


def _ordinal(number: int) -> str:
    ending = "th" if 10 <= number % 100 <= 20 else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
