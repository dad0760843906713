"""ONNX files with weights and arithmetic below float32."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from mimicdet.export.network import INPUTS

_KEPT_IN_FLOAT32 = (
    "NonMaxSuppression", "TopK", "Resize", "ScatterND", "GatherND", "Range", "Cast", "Floor", "Exp",
    "CumSum", "Min", "Max", "Clip",
)  # fmt: skip
"""Operators without an fp16 form, and those that compute coordinates: fp16 tells pixels above 1,024 apart no more."""


def to_fp16(file: Path) -> None:
    """Rewrites an ONNX file with the convolutions and matrix products in half precision; boxes stay in float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = onnx.load(file)
    heavy = {"Conv", "Gemm", "MatMul"}
    others = sorted({node.op_type for node in model.graph.node} - heavy)
    reduced = convert_float_to_float16(
        model, keep_io_types=True, op_block_list=sorted({*others, *_KEPT_IN_FLOAT32}), disable_shape_infer=True
    )
    # Where two inputs share a value, the converter casts it twice under one name
    by_output = {tuple(node.output): node for node in reversed(reduced.graph.node)}
    nodes = [node for node in reduced.graph.node if by_output[tuple(node.output)] is node]
    del reduced.graph.node[:]
    reduced.graph.node.extend(nodes)
    onnx.save(reduced, file)


def to_int8(file: Path, calibration: Iterator[tuple[Tensor, Tensor]]) -> None:
    """Rewrites an ONNX file with the convolutions in 8 bits, scales chosen from batches of images and sizes.

    The heads' matrix products stay in float32: they make up little of the time, and boxes suffer first.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, object] | None:
            batch = next(calibration, None)
            return None if batch is None else {name: t.numpy() for name, t in zip(INPUTS, batch, strict=True)}

    prepared = file.with_name("prepared.onnx")
    quant_pre_process(file, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared, file, Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=["Conv"], per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, extra_options={"ActivationSymmetric": False},
    )  # fmt: skip
    prepared.unlink()
