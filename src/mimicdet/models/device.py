"""Moves models to the device that a user names."""

import torch
from torch import nn

from mimicdet.errors import UserError


def move_to(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """Moves a model to a device such as ``cpu`` or ``cuda:1``; None is the first CUDA GPU, else the CPU.

    Raises UserError when there is no such device.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if torch.device(device).type == "meta":
            raise RuntimeError("it holds no values")
        model.to(device)
    except (RuntimeError, AssertionError, TypeError) as error:  # a misspelt name, no GPU, or torch built without CUDA
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"device {str(device)!r} cannot be used ({reason}); choose cpu, cuda or cuda:0") from error
    return torch.device(device)
