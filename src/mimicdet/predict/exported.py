"""Runs an exported file for ``Detector``."""

from pathlib import Path
from typing import Self

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from mimicdet.config import InferenceSettings
from mimicdet.data.batch import Batch
from mimicdet.errors import UserError
from mimicdet.export.exported_file import (
    ExportDescription,
    Run,
    description_file,
    load,
    read_export_description,
    reason_of,
)
from mimicdet.export.network import NO_LABEL
from mimicdet.inference.decode import Detections, detections_of_image
from mimicdet.inference.detect import memory_errors_explained
from mimicdet.inference.flips import detect_in_views
from mimicdet.weights.description import first_fault

FIXED = ("positions", "dense")  # settings that the network was exported with
FIXED_WITH_SUPPRESSION = ("nms_iou",)
"""Fixed too where suppression is in the file; a score threshold may only rise there, the number only fall."""


class ExportedModel:
    """Runs an exported file on the CPU: ``run`` is the file loaded, ``description`` what lies beside it."""

    def __init__(self, *, file: Path, run: Run, description: ExportDescription) -> None:
        self.file = file
        self.description = description
        try:
            self.inference = InferenceSettings.model_validate(description.inference)  # what it was exported with
        except ValidationError as error:
            beside, fault = description_file(file), first_fault(error)
            raise UserError(f"{beside} is broken (inference: {fault}); export the model again") from error
        self._run = run

    @classmethod
    def from_file(cls, file: Path, *, trust: bool = False) -> Self:
        """Reads ``file`` and its description; ``trust`` as in ``mimicdet.export.exported_file.load``.

        Raises UserError when one is missing or broken, its runtime not installed, or a torch file is not trusted.
        """
        description = read_export_description(file)
        return cls(file=file, run=load(file, description.format, trust=trust), description=description)

    @property
    def device(self) -> torch.device:
        """Returns the CPU."""
        return torch.device("cpu")

    def to(self, device: torch.device | str) -> None:
        """Raises UserError for anything but the CPU, where an exported file runs here."""
        if str(device) != "cpu":
            raise UserError(f"{self.file} is an exported model, which runs on the CPU here, not on {device}")

    @property
    def divisor(self) -> int:
        """Returns what sides of a canvas must be multiples of."""
        return self.description.divisor

    @torch.inference_mode()
    def detect(self, batch: Batch, inference: InferenceSettings) -> list[Detections]:
        """Returns the detections of each image of a batch, in pixels of the resized image.

        Raises UserError for settings that the file has not, or not enough memory.
        """
        self._refuse_what_is_fixed(inference)
        sizes = batch.sizes.numpy()

        def detect_all(images: Tensor) -> list[Detections]:
            outputs = self._outputs(images, sizes)
            found = [torch.from_numpy(np.ascontiguousarray(output)) for output in outputs]
            if self.description.outputs == "detections":
                return [_rows(Detections(*row), inference) for row in zip(*found, strict=True)]
            return [detections_of_image(b.float(), s.float(), inference) for b, s in zip(*found, strict=True)]

        with memory_errors_explained(batch.images):
            return detect_in_views(detect_all, batch.images, batch.sizes, inference)

    def _outputs(self, images: Tensor, sizes: np.ndarray) -> list[np.ndarray]:
        try:
            with memory_errors_explained(images):
                outputs = self._run(np.ascontiguousarray(images.numpy()), sizes)
        except UserError:
            raise
        except Exception as error:  # each runtime has its own
            why = reason_of(error)
            raise UserError(f"{self.file} fails when it is run ({why}); export the model again") from error
        self._require_described(outputs, len(images))
        return outputs

    def _require_described(self, outputs: list[np.ndarray], batch: int) -> None:
        """A file may give anything, whatever stands in its description."""
        with_labels, classes = self.description.outputs == "detections", len(self.description.categories)
        shapes = [output.shape if isinstance(output, np.ndarray) else None for output in outputs]
        rows = shapes[0][1:2] if shapes and shapes[0] else ()
        wanted = [(batch, *rows, 4), (batch, *rows), (batch, *rows)]
        if not with_labels:
            wanted = [(batch, *rows, 4), (batch, *rows, classes)]
        fault = None
        if not rows or shapes != wanted:
            fault = f"it gives arrays of shapes {shapes}, not {wanted}"
        elif any(output.dtype.kind != "f" for output in outputs[:2]) or (with_labels and outputs[2].dtype.kind != "i"):
            fault = f"it gives arrays of types {[str(output.dtype) for output in outputs]}"
        elif not all(np.isfinite(output).all() for output in outputs[:2]):
            fault = "it gives boxes or scores that are infinite or no numbers"
        elif with_labels and outputs[2].size and not NO_LABEL <= outputs[2].min() <= outputs[2].max() < classes:
            fault = f"it gives class indices outside the {classes} classes of its description"
        if fault:
            raise UserError(f"{self.file}: {fault}; export the model again")

    def _refuse_what_is_fixed(self, inference: InferenceSettings) -> None:
        has, asked = self.inference.model_dump(), inference.model_dump()
        wrong = {name: has[name] for name in FIXED if has[name] != asked[name]}
        if self.description.outputs == "detections":
            wrong |= {name: has[name] for name in FIXED_WITH_SUPPRESSION if has[name] != asked[name]}
            if asked["score_threshold"] < has["score_threshold"]:
                wrong["score_threshold"] = f"{has['score_threshold']} or more"
            if asked["max_detections"] > has["max_detections"]:
                wrong["max_detections"] = f"{has['max_detections']} or less"
        if wrong:
            name, value = next(iter(wrong.items()))
            raise UserError(
                f"{self.file}: inference.{name} is {value} in this exported file, not {asked[name]}; "
                f"export the model again with --inference.{name} {asked[name]}"
                + (", or with --outputs raw" if name not in FIXED else "")
            )


def _rows(output: Detections, inference: InferenceSettings) -> Detections:
    """Leaves out the rows that fill up and what the settings exclude."""
    found = (output.labels != NO_LABEL) & (output.scores > inference.score_threshold)
    rows = found.nonzero().squeeze(1)[: inference.max_detections]
    return Detections(output.boxes[rows].float(), output.scores[rows].float(), output.labels[rows])
