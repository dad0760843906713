"""The precision that frozen teachers run in, whatever the student trains in."""

from __future__ import annotations

import torch


def half_precision(device: torch.device) -> torch.autocast:
    """bfloat16 on GPUs that compute in it, else float32."""
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16 if native else None, enabled=native)
