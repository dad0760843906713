"""Has the command ``mimicdet export``."""

from __future__ import annotations

import sys
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic.dataclasses import dataclass

from mimicdet.commands.options import DataOptions, InferenceOptions, with_options
from mimicdet.commands.parser import DOCUMENTED, Argument
from mimicdet.errors import UserError, message, one_line

if TYPE_CHECKING:
    from mimicdet.data.dataset import DetectionDataset

MOST_PHOTOGRAPHS = 16
INPUT_HELP = "images (batch, 3, height, width) uint8 and their sizes (batch, 2)"

EXAMPLES = """\
mimicdet export runs/cells/model --format onnx                     runs/cells/model.onnx, with suppression inside
mimicdet export runs/cells/model --format openvino --outputs raw   boxes and scores before suppression
mimicdet export runs/cells/model --format onnx --images photos/    compare on photographs of your own
mimicdet export runs/cells/model --format onnx --precision int8 --data cells    calibrates, and measures the AP lost
"""


@dataclass(frozen=True, kw_only=True, config=DOCUMENTED)
class Export(DataOptions):
    """Writes a model as one ONNX, OpenVINO or torch file for images of any size, and compares the two.

    The file is kept only when its boxes and scores are those of the model: within 0.01 pixels and 0.0001, at sizes
    other than that of the export. `eval` and `predict` take it in the place of a model folder.
    """

    model: Annotated[Path, Argument("MODEL", positional=True)]
    """The model is a folder, such as `model` in a run folder."""
    format: Literal["onnx", "openvino", "torch"]
    """The file has this format. ONNX and OpenVINO need packages of the extra `export`, and say which."""
    out: Annotated[Path | None, Argument("FILE")] = None
    """The result goes to this file; by default MODEL.onnx, .xml or .pt2. Beside it lie a description as JSON, and for
    ONNX a program that runs it without torch."""
    outputs: Literal["detections", "raw"] = "detections"
    """The file gives detections after class-wise suppression, or boxes and scores before it (`raw`)."""
    images: Annotated[tuple[str, ...], Argument("SOURCES")] = ()
    """File and model are compared on these photographs (files, folders, globs in quotes); by default on the portrait
    that matplotlib brings."""
    precision: Literal["float32", "fp16", "int8"] = "float32"
    """An ONNX file keeps weights and computes with this precision; below float32 the AP on `--data` counts."""
    data: Annotated[Path | None, Argument("DATA")] = None
    """AP before and after is measured on the split `val` of this data set; int8 is calibrated on its split `train`."""
    inference: InferenceOptions = field(default_factory=dict)

    def run(self) -> int:
        if self.precision != "float32":
            if self.format != "onnx":
                raise UserError(f"--precision {self.precision} needs --format onnx, not {self.format}")
            if self.data is None:
                raise UserError(f"--precision {self.precision} needs --data, to measure what it costs")
        from mimicdet.export.export import require_one_stage, require_place
        from mimicdet.export.exported_file import SUFFIXES

        file = self.out or self.model.parent / (self.model.name + SUFFIXES[self.format])
        require_place(file, self.format)
        measured_on = None if self.data is None else self.load(self.data, "val")
        calibration = self.load(self.data, "train") if self.data and self.precision == "int8" else None
        from mimicdet.api import export_model
        from mimicdet.build import load_model
        from mimicdet.data.dataset import match_classes
        from mimicdet.engine.stop import stop_on_signals
        from mimicdet.predict.files import find_images
        from mimicdet.report.table import table

        loaded = load_model(self.model)
        require_one_stage(loaded.model, self.model)
        if measured_on is not None:
            measured_on = match_classes(measured_on, loaded.categories)
        form: dict[str, Any] = {"format": self.format, "outputs": self.outputs, "precision": self.precision}
        form["photographs"] = find_images(self.images)[:MOST_PHOTOGRAPHS] if self.images else ()
        form["inference"] = with_options(loaded.inference, self.inference, self.model)
        print(message(f"exporting {self.model} to {file}"), flush=True)
        with stop_on_signals() as stop, stop.at_once():  # SIGTERM too shall leave no temporary folder
            differences = export_model(self.model, file, **form, calibration=calibration)
        rows = [
            [f"{d.batch} x {d.height} x {d.width}", str(d.rows), str(d.unmatched), f"{d.boxes:.2g}", f"{d.scores:.2g}"]
            for d in differences
        ]
        print(table(["compared with the model", "rows", "without counterpart", "boxes (px)", "scores"], rows))
        if measured_on is not None:
            self._measure(file, measured_on)
        name = message(file)
        print(f"\n{name} takes {INPUT_HELP}; {one_line(file.name)}.json says how images are prepared")
        return 0

    def _measure(self, file: Path, dataset: DetectionDataset) -> None:
        """Prints the AP of the model and of the file on the data's validation split, which has the model's classes."""
        from mimicdet.inference.dataset import evaluate_runner
        from mimicdet.predict import Detector
        from mimicdet.report.table import metrics_table

        results = {}
        for name, path in (("model", self.model), (f"{file.name} ({self.precision})", file)):
            detector = Detector.from_pretrained(path, "cpu", trust=True)  # just written here
            detector.inference = with_options(detector.inference, self.inference, path)
            metrics = evaluate_runner(detector.runner, dataset, detector.inference, progress=sys.stderr.isatty())
            results[name] = metrics.to_json()
        print(f"\nAP on 'val' of {message(self.data)}:\n\n{metrics_table(results)}")
