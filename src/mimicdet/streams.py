"""What is no file on a disk: pipes, devices, what stands behind /dev/stdout. It is written to, but never read."""

import errno
import os
import stat
import sys
import time
from pathlib import Path

from mimicdet.errors import UserError

PATIENCE_S = 2.0
"""So long may a pipe's reader take to come."""
SPECIAL = "is a pipe, a socket or a device"
_held: dict[Path, int] = {}  # pipes opened before the work; closed in between, their readers would see an end


def is_stream(file: Path) -> bool:
    """Tells whether a name stands for a pipe, a device or an open descriptor, also through symbolic links."""
    return _inherited(file) is not None or is_special(file)


def is_special(file: str | Path) -> bool:
    """Tells whether a file is a pipe, a socket or a device, which to read may take for ever."""
    try:
        mode = os.stat(file).st_mode
    except (OSError, ValueError):  # whoever opens it says what is wrong
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def require_plain(*files: Path) -> None:
    """Raises UserError where one of the files that are to be read is a pipe, a socket or a device."""
    for file in filter(is_special, files):
        raise UserError(f"{file} {SPECIAL}; put a file on a disk in its place, or correct the path")


def hold_stream(file: Path) -> None:
    """Opens a stream for ``write_stream``, so that what is wrong with it is told before the work; UserError then."""
    place = file.absolute()
    if place not in _held:
        _held[place] = _open(file)


def write_stream(file: Path, content: bytes) -> None:
    """Writes to a stream; UserError where that is impossible, as when nobody reads a pipe."""
    hold_stream(file)
    sys.stdout.flush()  # where it goes the same way, what was said before comes before
    try:
        with open(_held.pop(file.absolute()), "wb") as handle:
            handle.write(content)
    except OSError as error:
        raise _unwritten(file, error) from error


def _open(file: Path) -> int:
    began = time.monotonic()
    while True:
        try:
            if (number := _inherited(file)) is not None:
                return os.dup(number)
            if os.name == "nt":
                return os.open(file, os.O_WRONLY)
            descriptor = os.open(file, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            os.set_blocking(descriptor, True)
            return descriptor
        except OSError as error:
            is_alone = error.errno == errno.ENXIO and file.is_fifo()
            if not is_alone or time.monotonic() - began > PATIENCE_S:
                raise _unwritten(file, error, is_alone=is_alone) from error
        time.sleep(0.05)


def _unwritten(file: Path, error: OSError, *, is_alone: bool = False) -> UserError:
    why = "nobody reads this pipe" if is_alone else error.strerror
    way_out = "start first what reads it, or name a file" if is_alone else "name another file"
    return UserError(f"{file} cannot be written ({why}); {way_out}")


def _inherited(file: Path) -> int | None:
    """Returns the number of the descriptor that a name such as /dev/stdout or /dev/fd/3 stands for, if it does."""
    folders = f"/proc/{os.getpid()}/fd", "/dev/fd"
    for _ in range(8):  # links to links
        if file.name.isdecimal() and os.path.realpath(file.parent) in folders:
            return int(file.name)
        if not os.path.islink(file):
            return None
        file = file.parent / os.readlink(file)
    return None
