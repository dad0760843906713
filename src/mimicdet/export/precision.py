"""Rewrites ONNX files with weights and arithmetic below float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from mimicdet.export.network import INPUTS

FEW_CHANNELS = 4
"""The channels of outputs that stay in float32, at most: deltas have so many, objectness and centerness one."""


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
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    batches = list(calibration)

    class Reader(CalibrationDataReader):
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
    how |= {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    scales = {"ActivationSymmetric": False, "CalibStridedMinMax": 1}  # a stride for every method
    how |= {"calibrate_method": CalibrationMethod.Percentile, "extra_options": scales}
    quantize_static(prepared, file, Reader(), quant_format=QuantFormat.QDQ, **how)
    prepared.unlink()


def _sensitive(model: Any) -> list[str]:
    """Returns the names of the first convolution, and of those that end in a few channels: scores and deltas."""
    outputs = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) == 4}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    return [
        node.name
        for i, node in enumerate(convolutions)
        if i == 0 or outputs.get(node.input[1], FEW_CHANNELS + 1) <= FEW_CHANNELS
    ]
