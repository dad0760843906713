"""Counts what a process does to the files of a folder, and lets it die or the disk be full at the n-th time.

Counted are: a file opened for writing, its 1st, 2nd, 4th, 8th ... write (a checkpoint has hundreds), fsync, a copy by
the kernel, a rename, a folder made, a file or folder removed. At a write, half of it is done. What C++ writes by itself
(torch.export, OpenVINO) is not seen here: kills at random moments and small disks meet that.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from pathlib import Path
from typing import Any

FILLS = ("open", "write", "sync", "copy", "folder")
"""What a full disk refuses."""


class _Watch:
    """Counts, and at the n-th time kills the process or raises what a full disk raises."""

    def __init__(self, folder: Path, at: int, how: str, count_file: Path | None) -> None:
        self.folder, self.at, self.how, self.count_file = os.fspath(folder), at, how, count_file
        self.count, self.main = 0, os.getpid()

    def inside(self, path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        return f"{os.path.abspath(os.fsdecode(os.fspath(path)))}/".startswith(f"{self.folder}/")

    def due(self, what: str) -> bool:
        """Counts, and says whether it is time."""
        if os.getpid() != self.main or (self.how == "full" and what not in FILLS):
            return False
        self.count += 1
        if self.count_file is not None:
            descriptor = os.open(self.count_file, os.O_WRONLY | os.O_CREAT)  # lies outside the folder
            os.write(descriptor, str(self.count).encode())
            os.close(descriptor)
        # A disk that is full stays full
        return self.count == self.at or (self.how == "full" and 0 < self.at < self.count)

    def strike(self, path: Any = None) -> None:
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


def watch(folder: Path, *, at: int = 0, how: str = "kill", count_file: Path | None = None) -> None:
    """Watches for the rest of the process's life. ``at`` 0 counts only, into ``count_file``."""
    state = _Watch(folder.resolve(), at, how, count_file)
    kinds = {"os.rename": "rename", "os.mkdir": "folder", "os.remove": "remove", "os.rmdir": "remove"}

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR)) if isinstance(flags, int) else "r" not in str(mode)
            if writes and state.inside(path) and state.due("open"):
                state.strike(path)
        elif event in kinds and state.inside(arguments[0]) and state.due(kinds[event]):
            state.strike(arguments[0])

    class Counted(io.FileIO):
        """A file whose every write is counted."""

        writes = 0

        def write(self, content: Any) -> int:
            self.writes += 1
            if self.writes.bit_count() == 1 and state.due("write"):
                view = memoryview(content).cast("B")
                super().write(view[: len(view) // 2])
                state.strike()
            return super().write(content)

    real = io.open

    def opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else file
        if not set(mode) & set("wxa") or "+" in mode or not state.inside(path):
            return real(file, mode, *arguments, **named)
        options = dict(
            zip(("buffering", "encoding", "errors", "newline", "closefd", "opener"), arguments, strict=False)
        )
        options |= named
        how = {key: options[key] for key in ("closefd", "opener") if key in options}
        buffered = io.BufferedWriter(Counted(file, mode.replace("b", "").replace("t", ""), **how))
        if "b" in mode:
            return buffered
        return io.TextIOWrapper(buffered, **{key: options.get(key) for key in ("encoding", "errors", "newline")})

    def wrapped(name: str, what: str) -> None:
        function = getattr(os, name)

        def call(descriptor: Any, *arguments: Any, **named: Any) -> Any:
            path = os.readlink(f"/proc/self/fd/{descriptor}") if isinstance(descriptor, int) else ""
            if state.inside(path) and state.due(what):
                state.strike()
            return function(descriptor, *arguments, **named)

        setattr(os, name, call)

    import builtins

    io.open = builtins.open = opened  # type: ignore[assignment]
    wrapped("fsync", "sync")
    wrapped("sendfile", "copy")
    sys.addaudithook(audit)
