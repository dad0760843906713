"""Locks on files, which end with the process that holds them, however it ends."""

import contextlib
import errno
import os
import platform
import stat
import sys
from pathlib import Path

_HAS_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)  # which Windows has not
_BEYOND = 2**30  # the byte that Windows locks, where there is none to read


class Lock:
    """Holds the lock of a file until it is released; the file goes with it."""

    def __init__(self, file: Path, descriptor: int, *, sure: bool) -> None:
        self.file = file
        self.sure = sure  # False where the file system has no locks: others may believe that they hold it too
        self._descriptor: int | None = descriptor
        self._process = os.getpid()

    def sign(self) -> None:
        """Writes into the file which process on which host holds it."""
        assert self._descriptor is not None
        os.truncate(self._descriptor, 0)
        os.write(self._descriptor, f"process {os.getpid()} on {platform.node() or 'this host'}".encode())

    def release(self, *, remove: bool = True) -> None:
        """Removes the file and lets go of the lock; in a process forked meanwhile it stays this one's."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        remove = remove and os.getpid() == self._process
        if os.name == "nt":  # which removes no open file
            os.close(descriptor)
        if remove:  # while it is ours
            with contextlib.suppress(OSError):
                os.unlink(self.file)
        if os.name != "nt":
            os.close(descriptor)

    def __del__(self) -> None:
        self.release()


def take_lock(file: Path, *, make: bool = True) -> Lock | None:
    """Takes the lock of a file, made if need be, or returns None where another holds it; never waits.

    Raises OSError where the file cannot be made or, without ``make``, is not there, and where something else has its
    name: what a link points to would be written over.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            _require_plain(os.lstat(file))  # before it is opened, for a pipe may not let go
        descriptor = os.open(file, os.O_RDWR | _NO_LINK | (os.O_CREAT if make else 0), 0o644)
        try:
            _require_plain(os.fstat(descriptor))
            sure = _lock(descriptor)
            if sure is not None and _is_still(file, descriptor):
                return Lock(file, descriptor, sure=sure)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if sure is None:
            return None  # else the one before has removed the file meanwhile


def holder(file: Path) -> str:
    """Returns the process and host that signed a lock's file."""
    with contextlib.suppress(OSError):
        if text := file.read_text(encoding="utf-8", errors="replace").strip():
            return text
    return "another process"


def _lock(descriptor: int) -> bool | None:
    """Tells whether the file is locked now: None where another's lock is on it, False where there are no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, _BEYOND, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HAS_NO_LOCKS:
            return False
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return None
        raise
    return True


def _require_plain(about: os.stat_result) -> None:
    """Raises OSError for what is no file, or a file that has another name too."""
    if not stat.S_ISREG(about.st_mode) or about.st_nlink > 1:
        raise OSError(errno.EEXIST, "it is a link, folder, pipe or device")


def _is_still(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.lstat(file), os.fstat(descriptor))
    except FileNotFoundError:
        return False
