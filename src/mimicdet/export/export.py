"""Exports a detector to a file of another runtime that is known to give the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from torch import Tensor, nn

from mimicdet.data.dataset import Category
from mimicdet.errors import UserError
from mimicdet.export.description import (
    ExportDescription,
    Format,
    Outputs,
    Precision,
    description_file,
    write_description,
)
from mimicdet.export.network import DETECTION_OUTPUTS, RAW_OUTPUTS, DetectingNetwork, RawNetwork
from mimicdet.export.parity import BOX_LIMIT, SCORE_LIMIT, Difference, compare
from mimicdet.export.precision import to_fp16, to_int8
from mimicdet.export.runtimes import load
from mimicdet.export.suppress import suppress_as_one_operator, suppress_by_torchvision
from mimicdet.export.write import write_onnx, write_openvino, write_torch
from mimicdet.files import replace_file
from mimicdet.inference.fold import fold_detector
from mimicdet.models.detector import DetectionModel

RUNNER = Path(__file__).with_name("run_onnx.py")
"""The program that runs ONNX files without torch; it is laid beside them."""


def export_detector(
    model: DetectionModel,
    file: Path,
    *,
    format: Format,
    outputs: Outputs,
    inference: dict[str, Any],
    categories: Sequence[Category],
    photographs: Sequence[np.ndarray],
    precision: Precision = "float32",
    calibration: Iterator[tuple[Tensor, Tensor]] | None = None,
) -> list[Difference]:
    """Writes ``model`` as ``file``, with its description beside it, after comparing the two.

    Args:
        model: in evaluation mode on the CPU.
        file: replaced only when all went well.
        format, outputs: of the file.
        inference: the fields of ``mimicdet.config.InferenceSettings``.
        categories: class index -> id and name.
        photographs: to compare on, (h, w, 3) uint8 RGB.
        precision: below float32 the differences are told, not judged.
        calibration: batches of images and sizes, for int8.

    Returns:
        The differences at each size.

    Raises:
        UserError: they are too large, or a network that cannot be exported.
    """
    divisor = model.divisor
    raw = RawNetwork(model=fold_detector(model), top=inference["positions"]).eval()
    network: nn.Module = raw
    if outputs == "detections":
        suppress = suppress_by_torchvision if format == "torch" else suppress_as_one_operator
        limits = {name: inference[name] for name in ("score_threshold", "nms_iou", "max_detections")}
        network = DetectingNetwork(raw=raw, suppress=suppress, **limits)
    names = DETECTION_OUTPUTS if outputs == "detections" else RAW_OUTPUTS
    with TemporaryDirectory(dir=file.parent, prefix=".export-") as folder:
        made = Path(folder) / file.name
        if format == "torch":
            write_torch(network, made, divisor=divisor)
        else:
            onnx_file = made.with_suffix(".onnx")
            write_onnx(network, onnx_file, outputs=names, divisor=divisor)
            if precision == "fp16":
                to_fp16(onnx_file)
            elif precision == "int8":
                assert calibration is not None
                to_int8(onnx_file, calibration)
            if format == "openvino":
                write_openvino(onnx_file, made)
        differences = compare(network, load(made, format), photographs, outputs)
        if precision == "float32":
            _judge(differences, file)
        about = ExportDescription(format, outputs, precision, divisor, inference, tuple(categories))
        write_description(made, about)
        beside = [made.with_suffix(".bin")] if format == "openvino" else []
        for part in (*beside, description_file(made), made):
            part.replace(file.with_name(part.name))
    if format == "onnx" and not (runner := file.with_name(RUNNER.name)).exists():
        replace_file(runner, RUNNER.read_bytes())
    return differences


def _judge(differences: Sequence[Difference], file: Path) -> None:
    for found in differences:
        if not found.is_equal:
            raise UserError(
                f"{file} is not written: on {found.batch} image(s) of {found.height} x {found.width} pixels its boxes "
                f"differ from the model's by up to {found.boxes:.3g} pixels (at most {BOX_LIMIT}), its scores by "
                f"{found.scores:.3g} (at most {SCORE_LIMIT}), and {found.unmatched} of {found.rows} rows have no "
                f"counterpart; try another --format, and report it"
            )
