"""Describes an exported file for programs, in JSON beside it: ``model.onnx`` -> ``model.onnx.json``.

It holds all that turns a photograph into the file's inputs and its outputs into detections of that photograph.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mimicdet.data.dataset import Category
from mimicdet.errors import UserError
from mimicdet.export.network import INPUTS
from mimicdet.files import replace_file

FORMAT_VERSION = 1

Format = Literal["onnx", "openvino", "torch"]
Outputs = Literal["detections", "raw"]
Precision = Literal["float32", "fp16", "int8"]

SUFFIXES: dict[Format, str] = {"onnx": ".onnx", "openvino": ".xml", "torch": ".pt2"}


@dataclass(frozen=True)
class ExportDescription:
    """Describes one exported file."""

    format: Format
    outputs: Outputs
    precision: Precision
    divisor: int
    inference: dict[str, Any]
    """The fields of ``mimicdet.config.InferenceSettings``; for ``detections`` the thresholds are fixed in the file."""
    categories: tuple[Category, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns all that turns a photograph into the file's inputs, and its outputs into detections."""
        shorter, longer = self.inference["shorter_side"], self.inference["longer_side"]
        boxes = "float32 (batch, rows, 4), x1 y1 x2 y2 in pixels of the resized image"
        outputs = {"boxes": boxes, "scores": "float32 (batch, rows, classes), before suppression"}
        if self.outputs == "detections":
            outputs["scores"] = "float32 (batch, rows), 0 in rows without a detection"
            outputs["labels"] = "int64 (batch, rows), index into categories, -1 in rows without a detection"
        return {
            "format_version": FORMAT_VERSION,
            **asdict(self),
            "preprocessing": {
                "upright": "turned as the EXIF orientation says",
                "resize": {
                    "shorter_side": shorter,
                    "longer_side_at_most": longer,
                    "interpolation": "bilinear, antialiased (Pillow's BILINEAR)",
                    "rounding": "scale = min(shorter / min(h, w), longer / max(h, w)); side = int(side * scale + 0.5)",
                },
                "pad": {"multiple_of": self.divisor, "where": "right and below", "value": 0},
                "normalise": "inside the model",
            },
            "input_names": {
                INPUTS[0]: "uint8 (batch, 3, height, width), red green blue, 0..255",
                INPUTS[1]: "int64 (batch, 2), height and width of each resized image before padding",
            },
            "output_names": outputs,
        }


def description_file(file: Path) -> Path:
    """Returns the file that describes an exported ``file``."""
    return file.with_name(file.name + ".json")


def write_description(file: Path, description: ExportDescription) -> None:
    """Writes the description of the exported ``file`` beside it."""
    text = json.dumps(description.to_json(), indent=2, ensure_ascii=False)
    replace_file(description_file(file), text.encode())


def read_export_description(file: Path) -> ExportDescription:
    """Reads the description beside an exported file.

    Raises:
        UserError: there is none, or it is broken or newer than this version.
    """
    beside = description_file(file)
    if not beside.is_file():
        raise UserError(
            f"{file}: there is no {beside.name} beside it, which `mimicdet export` writes; keep the two together"
        )
    try:
        raw = json.loads(beside.read_text(encoding="utf-8"))
        if (version := int(raw["format_version"])) > FORMAT_VERSION:
            raise UserError(f"{beside} has format version {version}, newer than {FORMAT_VERSION}; update mimicdet")
        return ExportDescription(
            format=_one_of(raw["format"], SUFFIXES),
            outputs=_one_of(raw["outputs"], ("detections", "raw")),
            precision=_one_of(raw["precision"], ("float32", "fp16", "int8")),
            divisor=int(raw["divisor"]),
            inference=dict(raw["inference"]),
            categories=tuple(Category(id=int(c["id"]), name=str(c["name"])) for c in raw["categories"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{beside} is broken ({type(error).__name__}: {error}); export the model again") from error


def _one_of(value: Any, known: Sequence[str] | dict[Format, str]) -> Any:
    if value not in known:
        raise ValueError(f"{value!r} is none of {', '.join(known)}")
    return value
