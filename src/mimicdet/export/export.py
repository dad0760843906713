"""Exports a detector to a file of another runtime that is known to give the same on photographs of several sizes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mimicdet.data.dataset import Category
from mimicdet.data.transform import resize_for_inference
from mimicdet.errors import UserError
from mimicdet.export.exported_file import (
    SUFFIXES,
    ExportDescription,
    Format,
    Outputs,
    Precision,
    Run,
    description_file,
    load,
)
from mimicdet.export.network import NO_LABEL, OUTPUTS, build_network
from mimicdet.export.write import require, to_fp16, to_int8, write_onnx, write_openvino, write_torch
from mimicdet.files import replace_files, require_writable, set_aside
from mimicdet.inference.fold import fold_detector
from mimicdet.models.detector import DetectionModel
from mimicdet.models.faster_rcnn import FasterRcnn

RUNNER = Path(__file__).with_name("run_onnx.py")
"""The program that runs ONNX files without torch; it is laid beside them."""

BOX_LIMIT = 0.01
"""The largest difference of a coordinate, in pixels."""
SCORE_LIMIT = 1e-4
UNMATCHED_LIMIT = 0.005
"""The largest share of rows without a counterpart: rounding may rank two positions or boxes otherwise."""

SIZES = ((1, 320, 448), (2, 256, 352), (1, 608, 416), (3, 96, 160))
"""Batch, height and width of each comparison; the export was traced with none of them."""


@dataclass(frozen=True)
class Difference:
    """Tells how far a file's results lie from eager's on one batch."""

    batch: int
    height: int
    width: int
    rows: int = 0  # positions (raw) or detections that were compared
    unmatched: int = 0  # rows that only one of the two has
    boxes: float = 0.0  # the largest difference of a coordinate, in pixels of the resized image
    scores: float = 0.0

    @property
    def is_equal(self) -> bool:
        """Says whether the file may be kept."""
        same_rows = self.unmatched <= max(1, UNMATCHED_LIMIT * self.rows)
        return same_rows and self.boxes <= BOX_LIMIT and self.scores <= SCORE_LIMIT

    def sentence(self) -> str:
        """Returns the differences as a sentence."""
        boxes = f"its boxes differ from the model's by up to {self.boxes:.3g} pixels (at most {BOX_LIMIT})"
        scores = f"its scores by {self.scores:.3g} (at most {SCORE_LIMIT})"
        rows = f"{self.unmatched} of {self.rows} rows have no counterpart"
        return f"on {self.batch} image(s) of {self.height} x {self.width} pixels {boxes}, {scores}, and {rows}"


def require_place(file: Path, format: Format) -> None:
    """Raises UserError unless a file of this name can be written in this format, with the packages that are there."""
    if file.suffix != SUFFIXES[format]:
        raise UserError(f"{file}: the name of a file in {format} form must end with {SUFFIXES[format]}")
    if not file.parent.is_dir():
        raise UserError(f"{file.parent}: there is no such folder; make it first")
    beside = [file.with_suffix(".bin")] if format == "openvino" else []
    beside += [runner] if format == "onnx" and not (runner := file.with_name(RUNNER.name)).exists() else []
    for written in (file, description_file(file), *beside):
        require_writable(written)
    require(format)


def require_one_stage(model: DetectionModel, name: str | Path) -> None:
    """Raises UserError for a detector that has no exported form."""
    if isinstance(model, FasterRcnn):
        raise UserError(f"{name} is a Faster R-CNN, which has no exported form; export a one-stage detector")


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
    """Writes ``model`` as ``file``, with its description beside it, and returns the differences of the two by size.

    Args:
        model: in evaluation mode on the CPU.
        file: replaced only when all went well; UserError where the differences are too large.
        inference: the fields of ``mimicdet.config.InferenceSettings``.
        photographs: to compare on, (h, w, 3) uint8 RGB.
        precision: below float32 the differences are told, not judged.
        calibration: batches of images and sizes, for int8.
    """
    divisor = model.divisor
    network = build_network(fold_detector(model), inference, outputs, format)
    with set_aside(file.parent) as folder:
        folder.mkdir()
        made = folder / file.name
        if format == "torch":
            write_torch(network, made, divisor=divisor)
        else:
            onnx_file = made.with_suffix(".onnx")
            write_onnx(network, onnx_file, outputs=OUTPUTS[outputs], divisor=divisor)
            if precision == "fp16":
                to_fp16(onnx_file)
            elif precision == "int8":
                assert calibration is not None
                to_int8(onnx_file, calibration)
            if format == "openvino":
                write_openvino(onnx_file, made)
        differences = compare(network, load(made, format, trust=True), photographs, outputs)
        for found in differences if precision == "float32" else []:
            if not found.is_equal:
                raise UserError(f"{file} is not written: {found.sentence()}; try another --format, and report it")
        ExportDescription(format, outputs, precision, divisor, inference, tuple(categories)).write(made)
        beside = [made.with_suffix(".bin")] if format == "openvino" else []
        beside += [RUNNER] if format == "onnx" and not file.with_name(RUNNER.name).exists() else []
        parts = (*beside, description_file(made), made)
        replace_files({file.with_name(part.name): part.read_bytes() for part in parts})
    return differences


def compare(network: nn.Module, run: Run, photographs: Sequence[np.ndarray], outputs: Outputs) -> list[Difference]:
    """Compares a network on the CPU with its exported file on photographs, which are resized to the sizes above."""
    found = []
    for batch, height, width in SIZES:
        images, sizes = _batch(photographs, batch, height, width)
        with torch.inference_mode():
            expected = [tensor.numpy() for tensor in network(images, sizes)]
        exported = run(images.numpy(), sizes.numpy())
        found.append(Difference(batch, height, width, *_difference(expected, exported, outputs)))
    return found


def _batch(photographs: Sequence[np.ndarray], batch: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    images = torch.zeros(batch, 3, height, width, dtype=torch.uint8)
    sizes = torch.zeros(batch, 2, dtype=torch.int64)
    for i in range(batch):
        # Each a little smaller than the one before, so that there is padding, and another photograph where there are
        shorter, longer = (side - 13 * i for side in sorted((height, width)))
        resized = resize_for_inference(photographs[i % len(photographs)], shorter, longer)[:, :height, :width]
        sizes[i] = torch.tensor(resized.shape[1:])
        images[i, :, : resized.shape[1], : resized.shape[2]] = resized
    return images, sizes


def _difference(eager: list[np.ndarray], exported: list[np.ndarray], outputs: Outputs) -> tuple[int, int, float, float]:
    rows, unmatched, boxes, scores = 0, 0, 0.0, 0.0
    for first, second in zip(zip(*eager, strict=True), zip(*exported, strict=True), strict=True):
        first, second = (_found(*part) if outputs == "detections" else _scored(*part) for part in (first, second))
        one, other = _pair(first, second)
        rows += max(len(first[0]), len(second[0]))
        unmatched += max(len(first[0]), len(second[0])) - len(one)
        if len(one):
            boxes = max(boxes, float(np.abs(first[0][one] - second[0][other]).max()))
            scores = max(scores, float(np.abs(first[1][one] - second[1][other]).max()))
    return rows, unmatched, boxes, scores


def _found(boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows that are detections, with the class as a one-hot score so that only equal classes pair."""
    rows = labels != NO_LABEL
    one_hot = np.zeros((int(rows.sum()), int(labels.max(initial=0)) + 1), dtype=np.float32)
    one_hot[np.arange(len(one_hot)), labels[rows]] = scores[rows]
    return boxes[rows], one_hot


def _scored(boxes: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Leaves out the positions on the padding, which score 0 and all lie at the image's edge."""
    rows = scores.max(1) > 0
    return boxes[rows], scores[rows]


def _pair(first: tuple[np.ndarray, np.ndarray], second: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs rows of the one and the other (boxes, scores): to each the nearest that is left, if it is near at all."""
    if not len(first[0]) or not len(second[0]):
        return np.zeros(0, dtype=int), np.zeros(0, dtype=int)
    classes = max(scores.shape[1] for _, scores in (first, second))
    points: list[Tensor] = []
    for boxes, scores in (first, second):
        padded = np.pad(scores, ((0, 0), (0, classes - scores.shape[1])))
        points.append(torch.from_numpy(np.concatenate([boxes, padded / SCORE_LIMIT * BOX_LIMIT], 1).astype(np.float64)))
    one, other = points
    distance = torch.cdist(one, other, p=float("inf"), compute_mode="donot_use_mm_for_euclid_dist").numpy()
    pairs = []
    for i, row in enumerate(distance):
        j = int(row.argmin())
        if row[j] < 1:
            pairs.append((i, j))
            distance[:, j] = np.inf  # boxes clipped to the same image edges may be equal: each counts once
    rows = np.array(pairs, dtype=int).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]
