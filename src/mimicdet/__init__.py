"""mimicdet: one-stage object detectors with two-stage accuracy."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimicdet.api import evaluate, export_model, train
    from mimicdet.build import load_model
    from mimicdet.data.splits import load_dataset
    from mimicdet.errors import UserError
    from mimicdet.predict import Detector
    from mimicdet.settings_file import load_settings

__all__ = [
    "Detector",
    "UserError",
    "__version__",
    "evaluate",
    "export_model",
    "load_dataset",
    "load_model",
    "load_settings",
    "train",
]
__version__ = version("mimicdet")

_HOMES = {
    "Detector": "predict",
    "UserError": "errors",
    "evaluate": "api",
    "export_model": "api",
    "load_dataset": "data.splits",
    "load_model": "build",
    "load_settings": "settings_file",
    "train": "api",
}
"""Where each public name is defined."""


def __getattr__(name: str) -> Any:
    """Imports a public name (and perhaps torch) when it is first asked for, so that the command line starts fast."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mimicdet' has no attribute {name!r}")
    return getattr(import_module(f"mimicdet.{_HOMES[name]}"), name)
