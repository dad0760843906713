"""Pipes, devices and descriptors are written to, never replaced."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mimicdet import streams
from mimicdet.errors import UserError
from mimicdet.files import replace_file, require_writable
from mimicdet.streams import is_stream

CONTENT = b"[1, 2]\n" * 20_000  # more than a pipe holds


def read_in_thread(file: Path) -> tuple[threading.Thread, list[bytes]]:
    found: list[bytes] = []
    thread = threading.Thread(target=lambda: found.append(file.read_bytes()), daemon=True)
    thread.start()
    return thread, found


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("asked_before", [False, True])
def test_a_pipes_reader_gets_everything_once(tmp_path: Path, linked: bool, asked_before: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    file = tmp_path / "link" if linked else pipe
    if linked:
        file.symlink_to("pipe")
    thread, found = read_in_thread(pipe)
    if asked_before:
        require_writable(file)
        time.sleep(0.1)
        assert not found, "to ask must not end what the reader reads"
    replace_file(file, CONTENT)
    thread.join(5)
    assert found == [CONTENT]
    assert pipe.is_fifo()
    assert sorted(os.listdir(tmp_path)) == (["link", "pipe"] if linked else ["pipe"])
    assert file.is_symlink() == linked


def test_a_pipe_that_nobody_reads_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "PATIENCE_S", 0.2)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    began = time.monotonic()
    for work in (lambda: require_writable(pipe), lambda: replace_file(pipe, b"")):
        with pytest.raises(UserError, match=r"pipe cannot be written .nobody reads this pipe.; start first what reads"):
            work()
    assert time.monotonic() - began < 3
    assert pipe.is_fifo()


def test_a_reader_that_goes_away_is_an_error(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    require_writable(pipe)
    os.close(reader)
    with pytest.raises(UserError, match=r"pipe cannot be written .Broken pipe."):
        replace_file(pipe, CONTENT)


def test_a_terminal_is_written_to(tmp_path: Path) -> None:
    main, terminal = os.openpty()
    (tmp_path / "link").symlink_to(os.ttyname(terminal))
    replace_file(tmp_path / "link", b"[]\n")
    assert os.read(main, 100) == b"[]\r\n"
    assert (tmp_path / "link").is_symlink()
    os.close(main)
    os.close(terminal)


def test_a_device_that_is_full(tmp_path: Path) -> None:
    """One of our own: never /dev/full itself, which faulty code might replace for the whole machine."""
    device = tmp_path / "full"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 7))
        open(device, "wb").close()
    except OSError:
        pytest.skip("this user may not make devices")
    with pytest.raises(UserError, match=r"full cannot be written .No space left on device."):
        replace_file(device, b"[]")
    assert device.is_char_device()


@pytest.mark.parametrize("name", ["/dev/fd/{}", "/proc/self/fd/{}"])
def test_a_descriptor_by_its_name(tmp_path: Path, name: str) -> None:
    """As of ``--json >(jq .)``; a regular file behind it is written where it stands, as by a shell."""
    reader, writer = os.pipe()
    replace_file(Path(name.format(writer)), b"[]")
    os.close(writer)
    assert os.read(reader, 10) == b"[]"
    os.close(reader)
    with open(tmp_path / "out.txt", "wb", buffering=0) as file:
        file.write(b"before ")
        (tmp_path / "link").symlink_to(name.format(file.fileno()))
        require_writable(tmp_path / "link")
        replace_file(tmp_path / "link", b"[] ")
        file.write(b"after")
    assert (tmp_path / "out.txt").read_bytes() == b"before [] after"
    assert sorted(os.listdir(tmp_path)) == ["link", "out.txt"]
    with pytest.raises(UserError, match=r"/fd/987 cannot be written .Bad file descriptor."):
        replace_file(Path(name.format(987)), b"")


def test_standard_output_by_a_link_of_our_own(tmp_path: Path) -> None:
    (tmp_path / "stdout").symlink_to("/proc/self/fd/1")
    program = (
        "from pathlib import Path\nfrom mimicdet.files import replace_file\nprint('before')\n"
        f"replace_file(Path({str(tmp_path / 'stdout')!r}), b'[]\\n')\nprint('after')\n"
    )
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    with open(tmp_path / "out.txt", "wb") as out:
        subprocess.run([sys.executable, "-c", program], stdout=out, env=buffered, check=True)
    assert (tmp_path / "out.txt").read_text() == "before\n[]\nafter\n"
    piped = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, env=buffered, check=True)
    assert piped.stdout == b"before\n[]\nafter\n"


def test_what_is_no_stream(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "1").touch()
    for name in ("file", "link", "loop", "1", "gone", "gone/file", "x" * 300):
        assert not is_stream(tmp_path / name)
    assert not is_stream(tmp_path)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="writes to it")
def test_where_nothing_would_help_to_read_it_another_file_is_the_way_out() -> None:
    with pytest.raises(UserError, match=r"/dev/full cannot be written \(No space left on device\); name another file$"):
        replace_file(Path("/dev/full"), CONTENT)
