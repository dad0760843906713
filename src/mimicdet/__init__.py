"""mimicdet: one-stage object detectors with two-stage accuracy."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimicdet.predict import Detector

__all__ = ["Detector", "__version__"]
__version__ = version("mimicdet")


def __getattr__(name: str) -> Any:
    """Imports the detector (and torch with it) when it is first asked for, so that the command line starts fast."""
    if name == "Detector":
        from mimicdet.predict import Detector

        return Detector
    raise AttributeError(f"module 'mimicdet' has no attribute {name!r}")
