"""When a run folder may be written to, and what --overwrite leaves alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mimicdet.config import MimicDetSettings
from mimicdet.engine.run_folder import RunFolder
from mimicdet.errors import UserError
from mimicdet.settings_file import load_settings


def make_run(path: Path) -> RunFolder:
    """A folder as a run leaves it."""
    folder = RunFolder(path)
    folder.open(resume=False, overwrite=False)
    folder.write_settings(MimicDetSettings())
    for file in (
        folder.metrics_file,
        folder.checkpoints / "last.pt",
        folder.model / "model.json",
        folder.curves,
        folder.pictures / "1.png",
        folder.last_model / "model.json",
        folder.trackers / "events",
    ):
        file.parent.mkdir(exist_ok=True)
        file.write_text("x")
    return folder


def test_new_and_empty_folders_are_opened(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "a" / "b"):
        RunFolder(path).open(resume=False, overwrite=False)
        assert (path / "checkpoints").is_dir()


def test_a_run_is_never_touched_without_a_flag(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"already holds a run.*--resume.*--overwrite"):
        folder.open(resume=False, overwrite=False)
    folder.open(resume=True, overwrite=False)
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


def test_overwrite_removes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    (folder.path / "my notes.txt").write_text("mine")
    folder.open(resume=False, overwrite=True)
    folder.close()
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoints", "my notes.txt"]
    assert list(folder.checkpoints.iterdir()) == []


def test_overwrite_that_was_interrupted_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(tmp_path / "run")

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", interrupted)
        with pytest.raises(KeyboardInterrupt):
            folder.open(resume=False, overwrite=True)
    assert folder.holds_a_run
    folder.open(resume=False, overwrite=True)
    folder.close()
    assert [path.name for path in folder.path.iterdir()] == ["checkpoints"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "photo.jpg").write_text("x")
    (tmp_path / "settings.yaml").write_text("not: ours\n")
    with pytest.raises(UserError, match="not empty and holds no run"):
        RunFolder(tmp_path).open(resume=False, overwrite=overwrite)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run to resume"):
        RunFolder(tmp_path / "new").open(resume=True, overwrite=False)
    with pytest.raises(UserError, match="give one of them"):
        make_run(tmp_path / "run").open(resume=True, overwrite=True)
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=str(tmp_path / "file")):
            RunFolder(path).open(resume=False, overwrite=False)


def test_a_folder_that_may_not_be_written_is_refused_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the data are read; asked of the folder that there is, for root may write everywhere."""
    asked: list[Path] = []
    monkeypatch.setattr(os, "access", lambda path, _: asked.append(path))
    with pytest.raises(UserError, match=f"{tmp_path} may not be written to"):
        RunFolder(tmp_path / "a" / "b").require_fit(resume=False, overwrite=False)
    assert asked == [tmp_path]


def test_settings_are_read_back_as_they_were(tmp_path: Path) -> None:
    settings = load_settings()
    RunFolder(tmp_path).write_settings(settings)
    assert load_settings(config=RunFolder(tmp_path).settings_file) == settings
