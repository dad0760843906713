from __future__ import annotations

import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimicdet.errors import UserError
from mimicdet.files import (
    defined,
    failures_of,
    fitting_name,
    is_leftover,
    make_folder,
    new_folder,
    remove_leftovers,
    replace_file,
    replace_files,
    require_empty,
    require_writable,
    set_aside,
    write_json,
)


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


def test_through_a_link_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").mkdir()
    target = tmp_path / "far" / "target.json"
    target.write_bytes(b"old")
    (tmp_path / "near" / "second").symlink_to("../far/target.json")
    (tmp_path / "near" / "first").symlink_to("second")
    number = target.stat().st_ino
    require_writable(tmp_path / "near" / "first")
    replace_file(tmp_path / "near" / "first", b"new")
    assert target.read_bytes() == b"new"
    assert target.stat().st_ino != number, "in one piece: another file has the name now"
    assert [os.readlink(tmp_path / "near" / name) for name in ("first", "second")] == ["second", "../far/target.json"]
    assert [sorted(os.listdir(tmp_path / name)) for name in ("far", "near")] == [["target.json"], ["first", "second"]]

    target.unlink()
    require_writable(tmp_path / "near" / "first")
    replace_file(tmp_path / "near" / "first", b"again")
    assert target.read_bytes() == b"again"
    (tmp_path / "near" / "loop").symlink_to("loop")
    with pytest.raises(UserError, match=r"near/loop cannot be written"):
        replace_file(tmp_path / "near" / "loop", b"")


def test_a_folder_is_made_where_a_link_points_to(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for target in ("there", "new"):
        link = tmp_path / f"link to {target}"
        link.symlink_to(target)
        with new_folder(link) as folder:
            (folder / "a").touch()
        assert link.is_symlink()
        assert os.listdir(tmp_path / target) == ["a"]


@pytest.mark.parametrize("name", ["z" * 255, "ö" * 127, "z" * 251 + ".png"])
def test_every_legal_name_can_be_written(tmp_path: Path, name: str) -> None:
    require_writable(tmp_path / name)
    replace_file(tmp_path / name, b"new")
    assert os.listdir(tmp_path) == [name]
    (tmp_path / name).unlink()
    with new_folder(tmp_path / name) as folder:
        (folder / name).touch()
    assert os.listdir(tmp_path / name) == [name]


def test_a_name_that_no_file_can_have_is_refused_before_the_work(tmp_path: Path) -> None:
    for work in (require_writable, lambda file: replace_file(file, b""), lambda file: write_json(file, {})):
        with pytest.raises(UserError, match=r"zzz cannot be written .*File name too long"):
            work(tmp_path / ("z" * 256))
    assert os.listdir(tmp_path) == []


@given(
    before=st.text("0123-", max_size=8),
    stem=st.text(st.characters(codec="utf-8", exclude_characters="/\0"), max_size=300),
    after=st.text("abc.", max_size=8),
)
def test_a_fitting_name_keeps_what_it_can(before: str, stem: str, after: str) -> None:
    name = fitting_name(before, stem, after)
    size = len(os.fsencode(name))
    assert name.startswith(before)
    assert name.endswith(after)
    kept = name[len(before) : len(name) - len(after)]
    assert stem.startswith(kept)
    assert size <= 255
    assert kept == stem or size + len(os.fsencode(stem[len(kept)])) > 255, "not one character more would fit"


def test_of_several_files_all_are_written_before_the_first_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        replace_file(tmp_path / name, b"old")
    fsync, times = os.fsync, 0

    def full_at_the_third(descriptor: int) -> None:
        nonlocal times
        times += 1
        if times == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_at_the_third)
    with pytest.raises(UserError, match="c cannot be written"):
        replace_files({tmp_path / name: b"new" for name in "abc"})
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == dict.fromkeys("abc", b"old")
    replace_files({tmp_path / name: b"new" for name in "abc"})
    assert {name: (tmp_path / name).read_bytes() for name in os.listdir(tmp_path)} == dict.fromkeys("abc", b"new")


# What killed processes leave

WORK = """
import os, sys, time
from pathlib import Path
from mimicdet.files import new_folder, replace_file

def stop(*_):
    print("in the middle", flush=True)
    time.sleep(60)

os.fsync = os.replace = stop
if sys.argv[1] == "file":
    replace_file(Path(sys.argv[2]), b"half")
else:
    with new_folder(Path(sys.argv[2])) as folder:
        (folder / "half").write_bytes(b"half")
"""


@pytest.fixture(params=["file", "folder"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that is in the middle of writing ``out`` beside."""
    command = [sys.executable, "-c", WORK, request.param, str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "in the middle\n"
        yield process
        process.kill()


def test_what_a_killed_process_left_is_removed_and_nothing_of_one_that_lives(
    tmp_path: Path, other: subprocess.Popen[str]
) -> None:
    replace_file(tmp_path / "a", b"first")
    theirs = sorted(filter(is_leftover, os.listdir(tmp_path)))
    assert len(theirs) == 2, "what they write, and its lock"
    remove_leftovers(tmp_path)
    replace_file(tmp_path / "a", b"second")
    assert sorted(os.listdir(tmp_path)) == sorted([*theirs, "a"])
    other.kill()
    other.wait()
    assert sorted(os.listdir(tmp_path)) == sorted([*theirs, "a"])
    replace_file(tmp_path / "a", b"third")
    assert os.listdir(tmp_path) == ["a"]


def test_a_name_of_ours_beside_what_is_complete_is_removed_too(tmp_path: Path) -> None:
    """As of a process killed between giving the folder its name and removing the lock."""
    with new_folder(tmp_path / "out") as folder:
        (folder / "a").touch()
    (tmp_path / ".mimicdet-0123456789abcdef").touch()
    with pytest.raises(UserError, match="exists already"), new_folder(tmp_path / "out"):
        raise AssertionError("nothing is begun")
    assert os.listdir(tmp_path) == ["out"]


def test_only_our_own_is_removed(tmp_path: Path) -> None:
    theirs = (".mimicdet-notes", ".mimicdet-0123456789abcdef.txt", "mimicdet-0123456789abcdef", ".a.json.1a2b3c4d")
    for name in theirs:
        (tmp_path / name).touch()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()
    (tmp_path / ".mimicdet-0123456789abcdef.new").symlink_to("out")
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted([*theirs, "out"])
    assert os.listdir(tmp_path / "out") == ["kept"]
    remove_leftovers(tmp_path / "gone")


def test_nothing_is_made_through_a_link_with_a_name_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ".mimicdet-0123456789abcdef", ".mimicdet-0000000000000000.new"
    for name in names:
        (tmp_path / name).symlink_to("elsewhere")
    replace_file(tmp_path / "a", b"whole")
    assert (tmp_path / "a").read_bytes() == b"whole"
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.setattr("mimicdet.files.remove_leftovers", lambda _: True)
    monkeypatch.setattr("secrets.token_hex", lambda _: "0" * 16)
    (tmp_path / names[1]).symlink_to("elsewhere")
    with pytest.raises(UserError, match="cannot be written"):
        replace_file(tmp_path / "b", b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [names[0], "a"]


def test_a_folder_is_not_listed_before_each_of_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[Path] = []
    monkeypatch.setattr("mimicdet.files.remove_leftovers", lambda folder: not listed.append(folder))
    for number in range(20):
        replace_file(tmp_path / str(number), b"")
    assert listed == [tmp_path]


def test_where_there_are_no_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with set_aside(tmp_path) as part:
        part.touch()
        before = sorted(os.listdir(tmp_path))
        assert not remove_leftovers(tmp_path)
        assert sorted(os.listdir(tmp_path)) == before, "its process lives, which cannot be known"
    assert os.listdir(tmp_path) == []


def test_failures_are_told_and_the_rest_is_done() -> None:
    done: list[int] = []

    def fail() -> None:
        raise UserError("it is full")

    assert failures_of(lambda: done.append(1), fail, lambda: done.append(2), fail) == ["it is full"] * 2
    assert done == [1, 2]


# A disk that is really full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_full_keeps_what_is_on_it(small_disk: Path) -> None:
    replace_file(small_disk / "a", b"old")
    with pytest.raises(UserError, match=r"a cannot be written .No space left on device."):
        replace_file(small_disk / "a", bytes(200_000))
    with pytest.raises(UserError, match="out: the disk is full"), new_folder(small_disk / "out") as folder:
        (folder / "a").write_bytes(bytes(200_000))
    assert os.listdir(small_disk) == ["a"]
    assert (small_disk / "a").read_bytes() == b"old"


def test_a_link_that_leads_nowhere_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for name, target in {
        "file": "nowhere/x.json",
        "folder": "nowhere",
        "new": "there/x.json",
        "itself": "itself",
    }.items():
        (tmp_path / name).symlink_to(target)
    with pytest.raises(
        UserError, match=r"file is a link to .*/nowhere/x\.json, and there is no folder .*/nowhere; make"
    ):
        require_writable(tmp_path / "file")
    for work in (require_writable, write_of, make_folder, require_empty):
        with pytest.raises(UserError, match=r"folder is a link to .*/nowhere, which is not there; make that folder"):
            work(tmp_path / "folder" / "x.json")
    for work in (require_writable, make_folder):
        with pytest.raises(UserError, match="itself"):
            work(tmp_path / "itself")
    require_writable(tmp_path / "new")
    write_json(tmp_path / "new", 1)
    assert (tmp_path / "there" / "x.json").read_text() == "1\n"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "itself", "new", "there"]


def write_of(file: Path) -> None:
    write_json(file, 1)
