"""Writes files and folders so that nothing is ever half-written, and says before the work what could not be."""

import contextlib
import errno
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mimicdet.errors import UserError
from mimicdet.locks import take_lock
from mimicdet.streams import hold_stream, is_stream, write_stream

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, where there are none yet; UserError where they cannot be made."""
    require_unbroken(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); choose another folder") from error


def require_unbroken(folder: Path) -> None:
    """Raises UserError where a folder to write to is or lies behind a symbolic link that leads nowhere."""
    for link in (folder, *folder.parents):
        if os.path.islink(link) and not os.path.exists(link):
            raise UserError(
                f"{link} is a link to {os.path.realpath(link)}, which is not there; make that folder, or name another"
            )


def require_text(folder: Path) -> None:
    """Raises UserError for a path that is no text, in which safetensors can read no file."""
    try:
        str(folder.absolute()).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{folder}: the path has bytes that are no UTF-8; choose another folder") from error


def real_path(path: str | Path) -> Path:
    """Returns a path with its symbolic links followed, but for those that lead to themselves.

    ``Path.resolve`` raises RuntimeError for those before Python 3.13.
    """
    return Path(os.path.realpath(path))


def replace_file(file: Path, content: bytes) -> None:
    """Writes a file as ``replace_files`` does."""
    replace_files({file: content})


def replace_files(contents: Mapping[Path, bytes]) -> None:
    """Writes files so that a crash at any moment leaves the old content or the new of each, never half of it.

    The content of all lies on the disk before the first is replaced. Through a symbolic link the file it points to is
    replaced, a pipe or device is written to. UserError where the disk is full or a folder is not writable; then the
    old content of all is untouched.
    """
    file, targets, parts = Path(), dict[Path, Path](), dict[Path, Path]()
    try:
        with contextlib.ExitStack() as stack:
            for file, content in contents.items():
                if not is_stream(file):
                    targets[file] = _target(file)
                    parts[file] = stack.enter_context(set_aside(targets[file].parent))
                    _write_new(parts[file], content)
            for file, content in contents.items():
                if file in parts:
                    os.replace(parts[file], targets[file])
                else:
                    write_stream(file, content)
    except OSError as error:
        kept = "what was there before is untouched: free space or choose another folder"
        raise UserError(f"{file} cannot be written ({error.strerror}); {kept}") from error


def _target(path: Path) -> Path:
    """Returns what a symbolic link points to, whether it is there or not, or else the path itself."""
    target = real_path(path) if os.path.islink(path) else path
    if os.path.islink(target):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    return target


def _write_new(file: Path, content: bytes) -> None:
    with open(file, "xb") as handle:  # through no link
        handle.write(content)
        handle.flush()
        os.fsync(handle.fileno())
    os.chmod(file, 0o644)


_TEMPORARY = re.compile(r"\.mimicdet-[0-9a-f]{16}")
_seen: dict[Path, int] = {}  # when a folder was last changed, as this process left it


@contextlib.contextmanager
def set_aside(folder: Path) -> Iterator[Path]:
    """Yields a name in ``folder`` for a file or folder that is to be renamed when it is whole, and is removed else.

    The name is short, whatever the name will be. A lock beside it tells it from what killed processes left in the
    folder, which is removed first. OSError where nothing can be made there.
    """
    # Listing the folder before each of many files would take long
    alone = _changed(folder) == _seen.get(folder) or remove_leftovers(folder)
    lock = None
    while lock is None:
        lock = take_lock(folder / f".mimicdet-{secrets.token_hex(8)}")
    part = lock.file.with_suffix(".new")
    try:
        yield part
    finally:
        _remove(part)
        lock.release()
        _seen[folder] = _changed(folder) if alone else 0


def remove_leftovers(folder: Path) -> bool:
    """Removes what killed processes were about to write in a folder, if it is there; nothing of one that lives.

    Returns whether nothing with a temporary name is left there.
    """
    alone = True
    with contextlib.suppress(OSError):
        for name in {found.removesuffix(".new") for found in os.listdir(folder) if is_leftover(found)}:
            lock = None
            with contextlib.suppress(OSError):
                lock = take_lock(folder / name)
            if lock is not None and lock.sure:
                _remove(folder / f"{name}.new")
            else:
                alone = False
            if lock is not None:
                lock.release(remove=lock.sure)
    return alone


def is_leftover(name: str) -> bool:
    """Tells whether a file or folder has one of this package's temporary names."""
    return _TEMPORARY.fullmatch(name.removesuffix(".new")) is not None


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _changed(folder: Path) -> int:
    with contextlib.suppress(OSError):
        return os.stat(folder).st_mtime_ns
    return -1


def why_not_written(error: OSError) -> str:
    """Returns what stopped a write: that the disk is full, or else the system's own words."""
    return "the disk is full" if error.errno in DISK_FULL else error.strerror or str(error)


def write_json(file: Path, content: Any) -> None:
    """Writes ``content`` as JSON, whole or not at all, making folders as needed.

    NaN and infinities become null, for JSON has none. UserError where the file or its folder cannot be written.
    """
    make_folder(file.parent)
    replace_file(file, (json.dumps(defined(content), indent=2, allow_nan=False) + "\n").encode())


def defined(content: Any) -> Any:
    """Returns nested dictionaries, lists and tuples with None for every NaN and infinity in them."""
    if isinstance(content, dict):
        return {key: defined(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [defined(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def require_writable(file: Path) -> None:
    """Raises UserError unless ``file`` could be written now, with folders that are not there yet; makes nothing."""
    if is_stream(file):
        return hold_stream(file)
    if os.path.isdir(file):
        raise UserError(f"{file} is a folder; name a file to write")
    folder = file.parent
    require_unbroken(folder)
    try:
        target = _target(file)
        if os.path.islink(file) and not os.path.isdir(target.parent):
            raise UserError(f"{file} is a link to {target}, and there is no folder {target.parent}; make it first")
        folder = next((parent for parent in target.parents if os.path.exists(parent)), target.parent)
        with contextlib.suppress(FileNotFoundError):
            os.stat(folder / target.name)  # which tells of a name that is too long
        with tempfile.TemporaryFile(dir=folder):  # asking for permissions does not tell of read-only disks
            pass
    except OSError as error:
        raise UserError(f"{file} cannot be written ({folder}: {error.strerror}); choose another folder") from error


def require_own_file(
    file: Path | None, *inputs: Path | None, is_input: Callable[[Path], bool] = lambda _: True
) -> None:
    """Raises UserError where ``--json`` names what cannot be written, or a file that is one of the inputs or in one.

    Of the files in a folder, only those count that ``is_input`` says are read.
    """
    if file is None:
        return
    require_writable(file)
    for path in filter(None, inputs):
        belongs = file.exists() and real_path(file).is_relative_to(real_path(path))
        if belongs and (path.is_file() or is_input(file)):
            raise UserError(f"{file} belongs to {path}, which is read; --json would overwrite it: name another file")


def require_empty(folder: Path) -> None:
    """Raises UserError where there is a file already, or a folder with something in it.

    What a killed process left beside it is removed.
    """
    require_unbroken(folder.parent)
    remove_leftovers(folder.parent)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already and is not an empty folder; name a new one")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields a folder to fill, which becomes ``out`` when all has gone well and vanishes otherwise.

    UserError where ``out`` exists and is not an empty folder, the disk is full, or the file system has another fault.
    """
    require_empty(out)
    partial = out
    try:
        target = _target(out)
        make_folder(target.parent)
        with set_aside(target.parent) as partial:
            partial.mkdir()
            yield partial
            if target.exists():
                target.rmdir()  # it is empty
            os.replace(partial, target)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(f"{out}: {why_not_written(error)}; free some space and try again") from error
        where = str(error.filename or out).replace(str(partial), str(out))
        raise UserError(f"{where}: {error.strerror or error}; check paths and permissions") from error


def fitting_name(before: str, stem: str, after: str) -> str:
    """Returns the name ``before + stem + after``, with as much of the stem as a file's name can hold: 255 bytes."""
    room = 255 - len(os.fsencode(before + after))
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return before + stem + after


def failures_of(*works: Callable[[], object]) -> list[str]:
    """Does one after the other, and returns a sentence for each that failed by what a user can mend.

    It is for what must not cost the rest, such as pictures.
    """
    failures = []
    for work in works:
        try:
            work()
        except UserError as error:
            failures.append(str(error))
    return failures
