"""Writes a detector as one file of another runtime, for images of any size and any number of them."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from mimicdet.errors import UserError
from mimicdet.export.description import Format
from mimicdet.export.network import INPUTS
from mimicdet.export.suppress import onnx_translations
from mimicdet.files import replace_file

OPSET = 20
_EXAMPLE = (3, 512, 640)
"""Batch, height, width: no side of the pyramid may be 0 or 1 here, which export would take for fixed."""
_LARGEST = 16384
"""The longest side in pixels."""

PACKAGES: dict[Format, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
"""The packages that write and compare each format, by the names that pip knows; the extra `export` has all."""


def require(format: Format) -> None:
    """Raises UserError unless the packages that ``format`` needs are there."""
    from importlib.util import find_spec

    missing = [name for name in PACKAGES[format] if find_spec(name) is None]
    if missing:
        raise UserError(
            f"exporting to {format} needs {' and '.join(missing)}: pip install {' '.join(missing)}, "
            f"or choose --format torch, which needs nothing more"
        )


def write_torch(network: nn.Module, file: Path, *, divisor: int) -> None:
    """Writes a ``torch.export`` program; ``torch.export.load`` reads it, after ``import torchvision``."""
    program = _exported(network, divisor)
    with TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        with _quiet():
            torch.export.save(program, str(made))
        made.replace(file)


def write_onnx(network: nn.Module, file: Path, *, outputs: tuple[str, ...], divisor: int) -> None:
    """Writes an ONNX file of standard operators.

    Args:
        network: whose suppression, if any, is ``suppress_as_one_operator``.
        file: to write.
        outputs: their names.
        divisor: canvas sides are multiples of this.
    """
    export = partial(torch.onnx.export, dynamo=True, opset_version=OPSET, custom_translation_table=onnx_translations())
    with _quiet():
        program = export(_exported(network, divisor), input_names=list(INPUTS), output_names=list(outputs))
    assert program is not None
    replace_file(file, program.model_proto.SerializeToString())


def write_openvino(onnx_file: Path, file: Path) -> None:
    """Writes OpenVINO's .xml and .bin from an ONNX file, in its precision."""
    import openvino

    with TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder) / file.name
        openvino.save_model(openvino.convert_model(onnx_file), made, compress_to_fp16=False)
        made.with_suffix(".bin").replace(file.with_suffix(".bin"))
        made.replace(file)


@torch.no_grad()
def _exported(network: nn.Module, divisor: int) -> ExportedProgram:
    """Traces ``network`` for any batch, height and width."""
    b, height, width = _EXAMPLE
    images = torch.zeros(b, 3, height, width, dtype=torch.uint8)
    sizes = torch.tensor([[height, width]] * b)
    batch = Dim("batch", min=1, max=1024)
    rows, columns = (Dim(name, min=1, max=_LARGEST // divisor) for name in ("rows", "columns"))
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
