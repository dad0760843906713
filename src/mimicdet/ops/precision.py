"""Keeps half precision to where it does no harm."""

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """Returns ``tensor`` in float32 where autocast made it half, unchanged where it is float32 or float64."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def autocast_without_cache(device_type: str) -> torch.autocast:
    """Returns autocast as it is around the call, on or off, but without its cache of half-precision weights.

    For work under ``no_grad`` before the same weights are used with gradient: torch 2.9 keeps the copies made there,
    which have no gradient, for the rest of the autocast region (pytorch pull request 165068).
    """
    dtype, on = torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type)
    return torch.autocast(device_type, dtype=dtype, enabled=on, cache_enabled=False)
