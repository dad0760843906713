"""When a run folder may be written to, and what --overwrite leaves alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mimicdet.config import MimicDetSettings
from mimicdet.engine.run_folder import RunFolder
from mimicdet.errors import UserError
from mimicdet.settings_file import load_settings
from tests.test_locks import hold_elsewhere


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


def contents(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_run_folder_has_one_process(tmp_path: Path) -> None:
    path = make_run(tmp_path / "run").path
    flags = (False, False), (True, False), (False, True)
    ways = [{"resume": resume, "overwrite": overwrite} for resume, overwrite in flags]
    with hold_elsewhere(path / ".mimicdet.lock") as process:
        try:
            before = contents(path)
            for how in ways:
                for work in (RunFolder(path).require_fit, RunFolder(path).reserve, RunFolder(path).open):
                    told = rf"run is in use by process {process.pid} on .+; wait until that has ended, or choose"
                    with pytest.raises(UserError, match=told):
                        work(**how)
            assert contents(path) == before
        finally:
            process.kill()
    assert (path / ".mimicdet.lock").exists()
    for how in ways[1:]:  # a killed process is in nobody's way
        folder = RunFolder(path)
        folder.reserve(**how)
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on "):
            RunFolder(path).require_fit(**how)
        folder.open(**how)
        folder.write_settings(MimicDetSettings())
        with pytest.raises(UserError, match=f"in use by process {os.getpid()} on "):
            RunFolder(path).open(**how)
        folder.close()
        assert not (path / ".mimicdet.lock").exists()


def test_of_two_that_begin_in_a_new_folder_one_is_refused(tmp_path: Path) -> None:
    """Both have found it empty; the second has not when the first has it."""
    first, second = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    for folder in (first, second):
        folder.reserve(resume=False, overwrite=False)
    assert not first.path.exists(), "what cannot start leaves none"
    first.open(resume=False, overwrite=False)
    with pytest.raises(UserError, match="in use by process"):
        second.open(resume=False, overwrite=False)
    first.write_settings(MimicDetSettings())
    first.close()
    with pytest.raises(UserError, match="already holds a run"):
        second.open(resume=False, overwrite=False)


def test_what_a_killed_run_left_is_removed_when_it_goes_on(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    folder.close()
    before = contents(folder.path)
    for place in (folder.path, folder.checkpoints, folder.model, folder.last_model, folder.pictures):
        (place / ".mimicdet-0123456789abcdef").touch()
        (place / ".mimicdet-0123456789abcdef.new").write_bytes(b"half")
    folder.open(resume=True, overwrite=False)
    folder.close()
    assert contents(folder.path) == before


def test_a_run_killed_before_its_settings_can_be_started_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.checkpoints.mkdir(parents=True)
    for name in (".mimicdet.lock", ".mimicdet-0123456789abcdef", ".mimicdet-0123456789abcdef.new"):
        (folder.path / name).touch()
    folder.open(resume=False, overwrite=False)
    folder.close()
    assert [path.name for path in folder.path.iterdir()] == ["checkpoints"]
    (folder.checkpoints / "last.pt").touch()
    with pytest.raises(UserError, match="not empty and holds no run"):
        folder.open(resume=False, overwrite=False)


@pytest.mark.parametrize("way", ["link", "dangling", "folder", "pipe"])
def test_what_has_the_name_of_the_lock_is_left_alone(tmp_path: Path, way: str) -> None:
    folder, victim = make_run(tmp_path / "run"), tmp_path / "victim"
    folder.close()
    if way == "link":
        victim.write_text("precious")
    {"folder": folder.lock_file.mkdir, "pipe": lambda: os.mkfifo(folder.lock_file)}.get(
        way, lambda: folder.lock_file.symlink_to("../victim")
    )()
    for work in (folder.require_fit, folder.reserve, folder.open):
        with pytest.raises(UserError, match=r"lock cannot be written \(it is a link, .*; remove it, or choose"):
            work(resume=True, overwrite=False)
    assert (victim.read_text() if way == "link" else victim.exists()) == ("precious" if way == "link" else False)
