"""A backbone made ready to run: batch norm folded into the convolution before it, padding that is known beforehand.

The same function, with fewer operations a layer.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import fx, nn

from mimicdet.models.backbone import Backbone
from mimicdet.models.frozen_norm import FrozenNorm

_NORMS = (nn.BatchNorm2d, BatchNormAct2d, FrozenNorm)


class _Tracer(fx.Tracer):
    """Looks into everything but convolutions and batch norm, timm's own kinds of them included."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, (nn.Conv2d, *_NORMS)) or super().is_leaf_module(module, name)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy of ``network``, in evaluation mode, without the batch norm that directly follows a convolution.

    What cannot be traced (networks whose course depends on the input) comes back as a plain copy, as does every
    batch norm whose convolution something else reads too.
    """
    folded = copy.deepcopy(network).eval()
    try:
        nodes = list(_Tracer().trace(folded).nodes)
    except Exception:
        return folded  # fx raises many kinds of errors; the copy is right, just not faster
    modules = dict(folded.named_modules())
    calls = Counter(node.target for node in nodes if node.op == "call_module")
    for node in nodes:
        if node.op != "call_module" or not isinstance(norm := modules[str(node.target)], _NORMS):
            continue
        source = node.args[0]
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        conv = modules[str(source.target)]
        if not isinstance(conv, nn.Conv2d):
            continue
        if calls[node.target] == calls[source.target] == 1:
            _fold(conv, norm)
            parent, _, name = str(node.target).rpartition(".")
            setattr(folded.get_submodule(parent), name, _rest(norm))
    return folded


def fold_detector(model: nn.Module) -> nn.Module:
    """A detector that shares every part with ``model`` but its backbone, which :func:`fold_batch_norm` and
    :func:`settle_padding` make faster.

    Detectors without a ``Backbone`` come back as they are.
    """
    if not isinstance(backbone := getattr(model, "backbone", None), Backbone):
        return model
    folded, folded_backbone = _shallow_copy(model), _shallow_copy(backbone)
    folded_backbone.network = settle_padding(fold_batch_norm(backbone.network))
    folded.backbone = folded_backbone
    return folded


def settle_padding(network: nn.Module) -> nn.Module:
    """Gives TensorFlow's "same" convolutions in ``network`` the padding that they would work out anew for each image.

    It depends on the image, unless its sides are multiples of the convolution's stride: then it is the kernel size
    less the stride, the odd pixel on the right and below. Canvases are multiples of the backbone's coarsest stride
    (``MimicDet.divisor``), so that this holds for every layer. Changes ``network``, and returns it.
    """
    for module in list(network.modules()):
        for child_name, child in module.named_children():
            if isinstance(child, Conv2dSame) and child.dilation == (1, 1):
                kernel_and_stride = zip(child.kernel_size, child.stride, strict=True)
                (top, odd_y), (left, odd_x) = (divmod(k - s, 2) for k, s in kernel_and_stride)
                if top < 0 or left < 0:  # a kernel smaller than its stride is not padded but cropped
                    continue
                setattr(module, child_name, _padded(child, (left, left + odd_x, top, top + odd_y)))
    return network


def _padded(conv: Conv2dSame, padding: tuple[int, int, int, int]) -> nn.Sequential:
    plain = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, groups=conv.groups,
        bias=conv.bias is not None, device="meta",
    )  # fmt: skip
    plain.weight, plain.bias = conv.weight, conv.bias
    return nn.Sequential(nn.ZeroPad2d(padding), plain)


def _shallow_copy(module: Any) -> Any:
    """Another module with the same parts, which can be exchanged in it without a change of the first."""
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: Any) -> None:
    # In double precision: the product of two roundings should not be worse than one
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    if conv.bias is not None:
        shift = shift + conv.bias.double() * scale
    weight = conv.weight.double() * scale[:, None, None, None]
    conv.weight = nn.Parameter(weight.to(conv.weight.dtype), requires_grad=False)
    conv.bias = nn.Parameter(shift.to(conv.weight.dtype), requires_grad=False)


def _rest(norm: Any) -> nn.Module:
    """What timm's batch norm does besides: an activation."""
    if isinstance(norm, (BatchNormAct2d, FrozenNorm)):
        return norm.act
    return nn.Identity()
