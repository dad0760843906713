"""The folder that the documents' commands and examples run in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.docs.workspace import make_workspace


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def workspace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy, which is the current folder."""
    folder = shutil.copytree(prepared, tmp_path / "work", symlinks=True)
    monkeypatch.chdir(folder)
    return folder
