"""Loads exported files into their runtimes: each becomes a function from numpy arrays to numpy arrays."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mimicdet.errors import UserError
from mimicdet.export.description import Format
from mimicdet.export.network import INPUTS

Run = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]
"""Images (B, 3, H, W) uint8 and sizes (B, 2) int64 -> the file's outputs."""


def load(file: Path, format: Format, *, threads: int | None = None) -> Run:
    """Loads the exported ``file``, ready to run on the CPU.

    Args:
        threads: that it computes with; None: as many as PyTorch uses.

    Raises:
        UserError: the runtime is not installed, or cannot read the file.
    """
    loaders = {"onnx": _load_onnx, "openvino": _load_openvino, "torch": _load_torch}
    try:
        return loaders[format](file, threads or _threads())
    except ImportError as error:
        raise UserError(f"{file}: {error.name} is needed to run it: pip install {error.name}") from error
    except UserError:
        raise
    except Exception as error:  # each runtime has its own
        raise UserError(f"{file} cannot be loaded ({str(error).splitlines()[0]}); export the model again") from error


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _load_onnx(file: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(os.fspath(file), options, providers=["CPUExecutionProvider"])
    return lambda images, sizes: session.run(None, {INPUTS[0]: images, INPUTS[1]: sizes})


def _load_openvino(file: Path, threads: int) -> Run:
    import openvino

    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(file, "CPU", options)
    return lambda images, sizes: [compiled_output.copy() for compiled_output in compiled([images, sizes]).values()]


def _load_torch(file: Path, threads: int) -> Run:
    import torch
    import torchvision  # noqa: F401  registers the operators that the file may call

    # Export guards against sides of one cell on the coarsest level, though what it traced holds for them too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = torch.export.load(os.fspath(file)).module(check_guards=False)

    @torch.inference_mode()
    def run(images: np.ndarray, sizes: np.ndarray) -> list[np.ndarray]:
        return [output.numpy() for output in network(torch.from_numpy(images), torch.from_numpy(sizes))]

    return run
