"""Batch norm with frozen statistics and affine parameters, in one pass over the features.

Detectors freeze it because their batches are small (section 4.1). As timm and torchvision write it, a multiplication
and an addition, it reads and writes every feature twice; on a CPU that is a tenth of a training step.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import FrozenBatchNormAct2d, freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d


class FrozenNorm(nn.Module):
    """A constant scale and shift of each channel, and the activation that timm's layer brings with it.

    Args:
        norm: timm's or torchvision's frozen batch norm; the buffers keep their names.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.eps: float = norm.eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name))
        is_timms = isinstance(norm, FrozenBatchNormAct2d)
        self.drop: nn.Module = norm.drop if is_timms else nn.Identity()
        self.act: nn.Module = norm.act if is_timms else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape and precision."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        scale, shift = (value.to(features.dtype)[:, None, None] for value in (scale, shift))
        return self.act(self.drop(torch.addcmul(shift, features, scale)))


def freeze_norms(network: nn.Module) -> nn.Module:
    """Replaces every batch norm in ``network`` by a frozen one of the same values; returns the network."""
    network = freeze_batch_norm_2d(network)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, FrozenBatchNorm2d | FrozenBatchNormAct2d):
                setattr(module, name, FrozenNorm(child))
    return network
