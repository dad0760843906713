from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mimicdet.errors import UserError
from mimicdet.files import defined, make_folder, new_folder, replace_file, write_json


def test_writes_and_replaces(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    replace_file(file, b"one")
    assert file.read_bytes() == b"one"
    replace_file(file, b"")
    assert file.read_bytes() == b""
    assert os.listdir(tmp_path) == ["a.json"]
    assert file.stat().st_mode & 0o777 == 0o644, "others may read it, as an ordinarily written file"


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_full_disk_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    file = tmp_path / "a.json"
    replace_file(file, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, step, full)
    with pytest.raises(UserError, match=r"a\.json cannot be written \(No space left on device\)"):
        replace_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_an_interrupt_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    replace_file(tmp_path / "a.json", b"old")
    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        replace_file(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_killed_process_leaves_the_old_content(tmp_path: Path, step: str) -> None:
    file = tmp_path / "a.json"
    replace_file(file, b"old")
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom mimicdet.files import replace_file\n"
        f"os.{step} = lambda *_: os._exit(9)\nreplace_file(Path(sys.argv[1]), b'new')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(file)], check=False)
    assert done.returncode == 9
    assert file.read_bytes() == b"old"


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b)))
    replace_file(tmp_path / "a.json", b"new")
    assert order == ["fsync", "replace"]


def test_a_folder_that_is_not_there_or_is_a_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone/a\.json cannot be written"):
        replace_file(tmp_path / "gone" / "a.json", b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"file/a\.json cannot be written"):
        replace_file(tmp_path / "file" / "a.json", b"")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="folder cannot be written"):
        replace_file(tmp_path / "folder", b"")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_json_has_null_for_what_it_has_no_number_for(tmp_path: Path) -> None:
    content = {"AP": math.nan, "rows": [1, (math.inf, -math.inf, 0.5)], "name": "Ölfaß", "none": None, "flag": True}
    assert defined(content) == {"AP": None, "rows": [1, [None, None, 0.5]], "name": "Ölfaß", "none": None, "flag": True}
    write_json(tmp_path / "deep" / "a.json", content)
    text = (tmp_path / "deep" / "a.json").read_text(encoding="ascii")
    assert text.endswith("}\n")
    assert json.loads(text) == defined(content)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/deep cannot be made \(Not a directory\); choose another folder"):
        write_json(tmp_path / "file" / "deep" / "a.json", content)


def test_a_new_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with new_folder(out) as folder:
        (folder / "a").touch()
        assert not out.exists()
    assert os.listdir(out) == ["a"]
    assert os.listdir(out.parent) == ["out"]
    for taken in (out, out / "a"):
        with pytest.raises(UserError, match="exists already and is not an empty folder"), new_folder(taken):
            raise AssertionError("nothing is begun")
    make_folder(empty := tmp_path / "empty")
    with new_folder(empty) as folder:
        (folder / "b").touch()
    assert os.listdir(empty) == ["b"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "out: the disk is full; free some space and try again"),
        (PermissionError(errno.EACCES, "Permission denied", "x.png"), "x.png: Permission denied; check paths and"),
        (UserError("x.png: is damaged"), "x.png: is damaged"),
    ],
)
def test_nothing_is_left_of_a_folder_that_fails(tmp_path: Path, error: Exception, says: str) -> None:
    def fill() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "a").touch()
            raise error

    with pytest.raises(UserError, match=says):
        fill()
    assert os.listdir(tmp_path) == []
