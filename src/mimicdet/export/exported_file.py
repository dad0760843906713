"""Describes an exported file, and loads it into its runtime.

The description is JSON for programs, ``model.onnx`` -> ``model.onnx.json``, and holds all that turns a photograph into
the file's inputs and its outputs into detections of that photograph. Loaded, a file is a function of numpy arrays.
"""

import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal
from zipfile import BadZipFile

import numpy as np
import torch
from pydantic import Field

from mimicdet.data.dataset import Category
from mimicdet.errors import UserError, near_path
from mimicdet.export.inside import require_onnx_inside, require_openvino_inside
from mimicdet.export.network import INPUTS
from mimicdet.files import replace_file
from mimicdet.streams import require_plain
from mimicdet.weights.description import FORMAT_VERSION, Classes, Part, Values, read_part

Format = Literal["onnx", "openvino", "torch"]
Outputs = Literal["detections", "raw"]
Precision = Literal["float32", "fp16", "int8"]

Run = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]
"""Images (B, 3, H, W) uint8 and sizes (B, 2) int64 -> the file's outputs."""

_PLACE = re.compile(r"(Exception from|Check '.*' failed at) .*:\d+:$|(Converting|Loading) input model$")

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
        boxes = "float32 (batch, rows, 4), x1 y1 x2 y2 in pixels of the resized image"
        outputs = {"boxes": boxes, "scores": "float32 (batch, rows, classes), before suppression"}
        if self.outputs == "detections":
            outputs["scores"] = "float32 (batch, rows), 0 in rows without a detection"
            outputs["labels"] = "int64 (batch, rows), index into categories, -1 in rows without a detection"
        shorter, longer = self.inference["shorter_side"], self.inference["longer_side"]
        rounding = "scale = min(shorter / min(h, w), longer / max(h, w)); side = int(side * scale + 0.5)"
        resize = {"shorter_side": shorter, "longer_side_at_most": longer}
        resize |= {"interpolation": "bilinear, antialiased (Pillow's BILINEAR)", "rounding": rounding}
        pad = {"multiple_of": self.divisor, "where": "right and below", "value": 0}
        steps = {"upright": "turned as the EXIF orientation says", "resize": resize, "pad": pad}
        preprocessing = steps | {"normalise": "inside the model"}
        images = "uint8 (batch, 3, height, width), red green blue, 0..255"
        sizes = "int64 (batch, 2), height and width of each resized image before padding"
        about = {"format_version": FORMAT_VERSION, **asdict(self), "preprocessing": preprocessing}
        return about | {"input_names": {INPUTS[0]: images, INPUTS[1]: sizes}, "output_names": outputs}

    def write(self, file: Path) -> None:
        """Writes the description beside the exported ``file``."""
        replace_file(description_file(file), json.dumps(self.to_json(), indent=2, ensure_ascii=False).encode())


class _Described(Part):
    """Checks the keys of a description that are read back."""

    format: Format
    outputs: Outputs
    precision: Precision
    divisor: Annotated[int, Field(ge=1, le=4096)]
    inference: Values
    categories: Classes


def description_file(file: Path) -> Path:
    """Returns the file that describes an exported ``file``."""
    return file.with_name(file.name + ".json")


def read_export_description(file: Path) -> ExportDescription:
    """Reads the description beside an exported file; UserError if it is missing, broken or of a newer version."""
    beside = description_file(file)
    require_plain(file, beside)
    if not beside.is_file():
        problem = f"there is no {beside.name} beside it, which `mimicdet export` writes"
        raise UserError(f"{file}: {problem}; keep the two together")
    if not file.is_file():
        raise UserError(f"{file}: there is no such file{near_path(file)}; name one that `mimicdet export` wrote")
    about = read_part(beside, _Described, way_out="export the model again")
    if SUFFIXES[about.format] != file.suffix:
        raise UserError(
            f"{beside} speaks of a file in {about.format} form, which {file.name} is not; export the model again"
        )
    return ExportDescription(**dict(about))


def load(file: Path, format: Format, *, trust: bool = False, threads: int | None = None) -> Run:
    """Loads ``file`` into its runtime on the CPU, and reads no file outside its folder.

    Args:
        trust: whoever made the file is trusted. A torch file may hold code that runs when it is read, so that it is
            refused without; nothing in a file of ONNX or OpenVINO is executed in any case.
        threads: None is PyTorch's number.

    Raises:
        UserError: file or runtime is not usable, or a torch file is not trusted.
    """
    if format == "torch" and not trust:
        raise UserError(
            f"{file} is a torch.export file, and reading one may run code that is hidden in it; if you trust whoever "
            "made it, say so with --trust (trust=True in Python), or export the model to ONNX"
        )
    loaders = {"onnx": _load_onnx, "openvino": _load_openvino, "torch": _load_torch}
    try:
        return loaders[format](file, threads or torch.get_num_threads())
    except ImportError as error:
        raise UserError(f"{file}: {error.name} is needed to run it: pip install {error.name}") from error
    except UserError:
        raise
    except Exception as error:  # each runtime has its own
        raise UserError(f"{file} cannot be loaded ({reason_of(error)}); export the model again") from error


def reason_of(error: Exception) -> str:
    """Returns the first line that says something; runtimes put places in their own sources before it."""
    if isinstance(error, BadZipFile | UnicodeDecodeError) or "the warnings above" in str(error):  # of torch
        return "it is cut off, or has changed since it was written"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = [line for line in lines if not _PLACE.match(line)]
    return (said or lines or [type(error).__name__])[0]


def _load_onnx(file: Path, threads: int) -> Run:
    import onnxruntime

    require_onnx_inside(file)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4  # the caller says what is wrong
    options.add_session_config_entry("session.load_model_format", "ONNX")  # what was looked through, and no other
    # Without its fallback, which prints to standard output and tries the same again
    how: dict[str, Any] = {"providers": ["CPUExecutionProvider"], "enable_fallback": 0}
    session = onnxruntime.InferenceSession(os.fspath(file), options, **how)
    return lambda images, sizes: session.run(None, {INPUTS[0]: images, INPUTS[1]: sizes})


def _load_openvino(file: Path, threads: int) -> Run:
    import openvino

    require_openvino_inside(file)
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(file, "CPU", options)
    return lambda images, sizes: [output.copy() for output in compiled([images, sizes]).values()]


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    """Keeps out of the terminal what is said in a sentence when it is told."""
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _load_torch(file: Path, threads: int) -> Run:
    import torchvision  # noqa: F401  registers the operators that the file may call

    # Export guards against sides of one cell on the coarsest level, though what it traced holds for them too
    with warnings.catch_warnings(action="ignore"), _silent(logging.getLogger("torch.export")):
        network = torch.export.load(os.fspath(file)).module(check_guards=False)

    @torch.inference_mode()
    def run(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        return [output.numpy() for output in network(torch.from_numpy(images), torch.from_numpy(sizes))]

    return run
