"""Moving a model to where it shall run."""

from __future__ import annotations

import torch
from torch import nn

from mimicdet.errors import UserError


def move_to(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """Moves a model to a device such as ``cpu`` or ``cuda:1``; None is the first CUDA GPU, else the CPU.

    Raises:
        UserError: there is no such device.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # a misspelt name, no GPU, or torch built without CUDA
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"device {str(device)!r} cannot be used ({reason}); choose cpu, cuda or cuda:0") from error
    return torch.device(device)
