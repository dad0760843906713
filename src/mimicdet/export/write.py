"""Writes a detector as one file of another runtime, for images of any size and any number, in float32 or below."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from mimicdet.errors import UserError
from mimicdet.export.exported_file import Format
from mimicdet.export.network import INPUTS, onnx_translations
from mimicdet.files import replace_file

OPSET = 20
FEW_CHANNELS = 4
"""The channels of outputs that stay in float32, at most: deltas have so many, objectness and centerness one."""

PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
"""The packages that write and compare each format, by the names that pip knows; the extra `export` has all."""


def require(format: Format) -> None:
    """Raises UserError unless the packages that ``format`` needs are there."""
    missing = [name for name in PACKAGES[format] if find_spec(name) is None]
    if missing:
        way_out = f"pip install {' '.join(missing)}, or choose --format torch, which needs nothing more"
        raise UserError(f"exporting to {format} needs {' and '.join(missing)}: {way_out}")


def write_torch(network: nn.Module, file: Path, *, divisor: int) -> None:
    """Writes a ``torch.export`` program; ``torch.export.load`` reads it, after ``import torchvision``."""
    program = _exported(network, divisor)
    content = io.BytesIO()  # which tells a full disk as what it is, torch does not
    with _quiet():
        torch.export.save(program, content)
    replace_file(file, content.getvalue())


def write_onnx(network: nn.Module, file: Path, *, outputs: tuple[str, ...], divisor: int) -> None:
    """Writes an ONNX file of standard operators; suppression, if any, must be ``suppress_as_one_operator``."""
    export = partial(torch.onnx.export, dynamo=True, opset_version=OPSET, custom_translation_table=onnx_translations())
    with _quiet():
        program = export(_exported(network, divisor), input_names=list(INPUTS), output_names=list(outputs))
    assert program is not None
    replace_file(file, program.model_proto.SerializeToString())


def write_openvino(onnx_file: Path, file: Path) -> None:
    """Writes OpenVINO's .xml and .bin from an ONNX file, in its precision."""
    import openvino

    openvino.save_model(openvino.convert_model(onnx_file), file, compress_to_fp16=False)


@torch.no_grad()
def _exported(network: nn.Module, divisor: int) -> ExportedProgram:
    b, height, width = 3, 512, 640  # no side of the pyramid may be 0 or 1 here, which export would take for fixed
    images = torch.zeros(b, 3, height, width, dtype=torch.uint8)
    sizes = torch.tensor([[height, width]] * b)
    batch = Dim("batch", min=1, max=1024)
    rows, columns = (Dim(name, min=1, max=16384 // divisor) for name in ("rows", "columns"))  # sides up to 16384
    shapes = {"images": {0: batch, 2: divisor * rows, 3: divisor * columns}, "sizes": {0: batch}}
    with _quiet():
        return torch.export.export(network.eval(), (images, sizes), dynamic_shapes=shapes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter's own progress lines, and its warnings of things that are well known."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def to_fp16(file: Path) -> None:
    """Rewrites an ONNX file with the convolutions and matrix products in half precision; boxes stay in float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(file)
    # Others have no fp16 form, or compute coordinates, of which fp16 tells those above 1,024 pixels apart no more
    others = sorted({node.op_type for node in model.graph.node} - {"Conv", "Gemm", "MatMul"})
    reduced = convert_float_to_float16(model, keep_io_types=True, op_block_list=others, disable_shape_infer=True)
    # Where two inputs share a value, the converter casts it twice under one name
    by_output = {tuple(node.output): node for node in reversed(reduced.graph.node)}
    nodes = [node for node in reduced.graph.node if by_output[tuple(node.output)] is node]
    del reduced.graph.node[:]
    reduced.graph.node.extend(nodes)
    onnx.save(reduced, file)


def to_int8(file: Path, calibration: Iterator[tuple[Tensor, Tensor]]) -> None:
    """Rewrites an ONNX file with the convolutions in 8 bits, scales chosen from batches of images and sizes.

    In float32 stay the heads' matrix products, the first convolution and those whose outputs are scores and deltas:
    they make up little of the time and most of the loss. Scales span all but a hundred-thousandth of the values: those
    of the very largest cost two points of AP more.
    """
    import onnx
    import onnxruntime.quantization as quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = list(calibration)

    class Reader(quantization.CalibrationDataReader):
        """One image at a time: onnxruntime would stack the activations of several, which differ in size."""

        def __len__(self) -> int:
            return len(batches)

        def set_range(self, start_index: int, end_index: int) -> None:
            self._rest = iter(batches[start_index:end_index])

        def get_next(self) -> dict[str, object] | None:
            batch = next(self._rest, None)
            return None if batch is None else {name: t.numpy() for name, t in zip(INPUTS, batch, strict=True)}

    prepared = file.with_name("prepared.onnx")
    quant_pre_process(file, prepared, skip_symbolic_shape=True)
    how: dict[str, Any] = {"op_types_to_quantize": ["Conv"], "nodes_to_exclude": _sensitive(onnx.load(prepared))}
    how |= {"activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt8}
    scales = {"ActivationSymmetric": False, "CalibStridedMinMax": 1}  # a stride for every method
    how |= {"calibrate_method": quantization.CalibrationMethod.Percentile, "extra_options": scales, "per_channel": True}
    quantization.quantize_static(prepared, file, Reader(), quant_format=quantization.QuantFormat.QDQ, **how)
    prepared.unlink()


def _sensitive(model: Any) -> list[str]:
    """Returns the names of the first convolution, and of those that end in a few channels: scores and deltas."""
    outputs = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) == 4}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    few = [node for node in convolutions[1:] if outputs.get(node.input[1], FEW_CHANNELS + 1) <= FEW_CHANNELS]
    return [node.name for node in convolutions[:1] + few]
