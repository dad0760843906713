"""Makes a detector ready to run: batch norm folded into the convolution before it, padding that is known beforehand.

It stays the same function, with fewer operations a layer.
"""

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mimicdet.config import InferenceSettings
from mimicdet.data.batch import Batch
from mimicdet.inference.decode import Detections
from mimicdet.inference.detect import detect
from mimicdet.models.backbone import FrozenNorm
from mimicdet.models.detector import DetectionModel
from mimicdet.models.device import move_to

_NORMS = (nn.BatchNorm2d, BatchNormAct2d, FrozenNorm)
_SIDE = 64  # pixels of the image that a network is watched with

Module = TypeVar("Module", bound=nn.Module)


class FoldedModel:
    """Runs a detector in evaluation mode, which stays as it is and may be changed at any time."""

    def __init__(self, model: DetectionModel) -> None:
        self.model = model
        self._fast: tuple[object, DetectionModel] | None = None

    @property
    def device(self) -> torch.device:
        """Returns the model's device."""
        return next(self.model.parameters()).device

    @property
    def divisor(self) -> int:
        """Returns what sides of a canvas must be multiples of."""
        return self.model.divisor

    def to(self, device: torch.device | str) -> None:
        """Moves the model; raises UserError when there is no such device."""
        move_to(self.model, device)

    @torch.inference_mode()
    def detect(self, batch: Batch, inference: InferenceSettings) -> list[Detections]:
        """Returns the detections of each image of a batch, in pixels of the resized image."""
        batch = batch.to(self.device)
        return detect(self.folded(), batch.images, batch.sizes, inference)

    def folded(self) -> DetectionModel:
        """Returns the model with folded batch norm, made anew after its weights have changed or moved."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        state = [(t.data_ptr(), t.device, None if t.is_inference() else t._version) for t in tensors]
        kept = self._fast  # read once: another thread may exchange it
        if kept is None or kept[0] != state:
            kept = self._fast = state, fold_detector(self.model)
        return kept[1]


def fold_detector(model: DetectionModel) -> DetectionModel:
    """Returns a detector that shares all with ``model`` but its backbone: folded, and its padding settled."""
    folded, trunk, backbone = _shallow_copy(model), _shallow_copy(model.trunk), _shallow_copy(model.trunk.backbone)
    backbone.network = settle_padding(fold_batch_norm(model.trunk.backbone.network))
    trunk.backbone, folded.trunk = backbone, trunk
    return folded


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Returns a copy of ``network``, in evaluation mode, without the batch norm that directly follows a convolution.

    A network whose course depends on the values in its input comes back as a plain copy, as does every batch norm
    whose convolution something else reads too. Nothing outside the copy is touched, so that several threads may fold.
    """
    folded = copy.deepcopy(network).eval()
    watch = _Watch(folded)
    try:
        with watch.hooks(), torch.no_grad(), watch:
            first = next(folded.parameters())
            watch.returned(folded(torch.zeros(1, 3, _SIDE, _SIDE, dtype=first.dtype, device=first.device)))
    except Exception:
        return folded  # networks refuse an image in many ways; the copy is right, just not faster
    for conv_name, norm_name in watch.pairs():
        norm = folded.get_submodule(norm_name)
        _fold(folded.get_submodule(conv_name), norm)
        parent, _, name = norm_name.rpartition(".")
        setattr(folded.get_submodule(parent), name, _rest(norm))
    return folded


class _DependsOnValuesError(Exception):
    """A network reads a value of a tensor, by which it may choose its course."""


class _Watch(TorchDispatchMode):
    """Sees which convolutions' outputs a network reads where, while it runs once in this thread.

    Tracing by ``torch.fx`` would tell the same, but exchanges methods of ``nn.Module`` for the whole process.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._convs, self._norms = (
            {module: name for name, module in network.named_modules() if isinstance(module, kinds)}
            for kinds in (nn.Conv2d, _NORMS)
        )
        self._outputs: dict[int, tuple[Tensor, str]] = {}  # by id; held, so that no id is given twice
        self._inside = 0  # norms that run just now
        self._calls: Counter[str] = Counter()
        self._reads: Counter[str] = Counter()
        self._read_by: dict[str, list[str]] = {}

    @contextmanager
    def hooks(self) -> Iterator[None]:
        handles = [conv.register_forward_hook(self._after_conv) for conv in self._convs]
        handles += [norm.register_forward_pre_hook(self._before_norm) for norm in self._norms]
        handles += [norm.register_forward_hook(self._after_norm) for norm in self._norms]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            raise _DependsOnValuesError
        if not self._inside:
            self.returned((args, kwargs))
        return func(*args, **(kwargs or {}))

    def returned(self, values: Any) -> None:
        """Counts every convolution's output in ``values`` as read."""
        for value in tree_leaves(values):
            if isinstance(value, Tensor) and id(value) in self._outputs:
                self._reads[self._outputs[id(value)][1]] += 1

    def pairs(self) -> list[tuple[str, str]]:
        """Names each convolution and batch norm that run once, the norm being all that reads the convolution."""
        return [
            (conv, norms[0])
            for conv, norms in self._read_by.items()
            if not self._reads[conv] and len(norms) == self._calls[conv] == self._calls[norms[0]] == 1
        ]

    def _after_conv(self, conv: nn.Module, _: Any, output: Tensor) -> None:
        name = self._convs[conv]
        self._calls[name] += 1
        self._outputs[id(output)] = (output, name)

    def _before_norm(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._inside += 1
        self._calls[self._norms[norm]] += 1
        if found := self._outputs.get(id(inputs[0])):
            self._read_by.setdefault(found[1], []).append(self._norms[norm])

    def _after_norm(self, *_: Any) -> None:
        self._inside -= 1


def settle_padding(network: nn.Module) -> nn.Module:
    """Gives TensorFlow's "same" convolutions in ``network`` the padding that they would work out anew for each image.

    It depends on the image, unless its sides are multiples of the convolution's stride: then it is the kernel size
    less the stride, the odd pixel on the right and below. Canvases are multiples of the backbone's coarsest stride
    (``DetectionModel.divisor``), so that this holds for every layer. Changes ``network``, and returns it.
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
    sizes = conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride
    plain = nn.Conv2d(*sizes, groups=conv.groups, bias=conv.bias is not None, device="meta")
    plain.weight, plain.bias = conv.weight, conv.bias
    return nn.Sequential(nn.ZeroPad2d(padding), plain)


def _shallow_copy(module: Module) -> Module:
    """Another module with the same parts, which can be exchanged in it without a change of the first."""
    copied = copy.copy(module)
    copied._modules = dict(module._modules)
    return copied


@torch.no_grad()
def _fold(conv: Any, norm: Any) -> None:
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
    """The activation that timm's batch norm ends with, if any."""
    return norm.act if isinstance(norm, (BatchNormAct2d, FrozenNorm)) else nn.Identity()
