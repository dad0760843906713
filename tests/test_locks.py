"""A lock keeps others out while its process lives, and no longer."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mimicdet.locks import holder, take_lock

HOLD = (
    "import sys\nfrom pathlib import Path\nfrom mimicdet.locks import take_lock\n"
    "lock = take_lock(Path(sys.argv[1]))\nlock.sign()\nprint('held', flush=True)\nsys.stdin.read()\n"
)


def hold_elsewhere(file: Path) -> subprocess.Popen[str]:
    """A process that holds a file's lock until it is told to end, or killed."""
    command = [sys.executable, "-c", HOLD, str(file)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_one_holds_it_until_it_lets_go(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    first = take_lock(file)
    assert first is not None
    assert first.sure
    assert take_lock(file) is None, "also another of the same process"
    first.release()
    first.release()
    assert not file.exists()
    second = take_lock(file)
    assert second is not None
    del second
    assert not file.exists(), "what nobody knows any more is held by nobody"
    with pytest.raises(FileNotFoundError):
        take_lock(file, make=False)


def test_another_process_is_named_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    with hold_elsewhere(file) as process:
        try:
            assert take_lock(file) is None
            assert holder(file) == f"process {process.pid} on {os.uname().nodename}"
        finally:
            process.kill()
    assert file.exists(), "it could not remove it"
    lock = take_lock(file)
    assert lock is not None
    lock.sign()
    assert holder(file) == f"process {os.getpid()} on {os.uname().nodename}"
    lock.release()
    assert holder(file) == "another process"


def test_a_forked_process_does_not_let_go(tmp_path: Path) -> None:
    lock = take_lock(tmp_path / "lock")
    assert lock is not None
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert take_lock(tmp_path / "lock") is None
    lock.release()


def test_a_file_that_was_removed_meanwhile_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two would hold locks of one name: of the file that is gone, and of the one that is there."""
    file, real, times = tmp_path / "lock", os.open, 0

    def open_and_remove(path: Path, *how: int) -> int:
        nonlocal times
        times += 1
        descriptor = real(path, *how)
        if times == 1:
            os.unlink(path)
        return descriptor

    monkeypatch.setattr(os, "open", open_and_remove)
    lock = take_lock(file)
    assert times == 2
    assert lock is not None
    assert file.exists()
    assert take_lock(file) is None


def test_a_file_system_without_locks_is_said_to_be_unsure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    began = time.monotonic()
    lock = take_lock(tmp_path / "lock")
    assert lock is not None
    assert not lock.sure
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("kind", ["link", "dangling", "loop", "hard link", "folder", "pipe"])
def test_what_is_no_file_of_ours_is_refused_and_left(tmp_path: Path, kind: str) -> None:
    """Through a link another file would be written over."""
    file, other = tmp_path / "lock", tmp_path / "other"
    if kind in ("link", "hard link"):
        other.write_text("precious")
    if kind in ("link", "dangling"):
        file.symlink_to("other")
    make = {"loop": lambda: file.symlink_to("lock"), "hard link": lambda: file.hardlink_to(other)}
    make |= {"folder": file.mkdir, "pipe": lambda: os.mkfifo(file)}
    make.get(kind, lambda: None)()
    with pytest.raises(OSError, match="it is a link, folder, pipe or device"):
        take_lock(file)
    assert os.path.lexists(file)
    assert (other.read_text() if other.exists() else None) == (None if "link" not in kind else "precious")


def test_a_link_made_meanwhile_is_not_followed_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, other, real = tmp_path / "lock", tmp_path / "other", os.open

    def open_a_link(path: Path, *how: int) -> int:
        file.symlink_to("other")
        return real(path, *how)

    monkeypatch.setattr(os, "open", open_a_link)
    with pytest.raises(OSError, match="symbolic links"):
        take_lock(file)
    assert not other.exists()
