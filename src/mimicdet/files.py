"""Writes files and folders so that nothing is ever half-written, and says before the work what could not be."""

import contextlib
import errno
import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mimicdet.errors import UserError

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it, where there are none yet; UserError where they cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}); choose another folder") from error


def replace_file(file: Path, content: bytes) -> None:
    """Writes a file so that a crash at any moment leaves the old content or the new, never half of it.

    UserError where the disk is full or the folder is not writable; the old content is untouched.
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
        temporary = None
    except OSError as error:
        kept = "what was there before is untouched: free space or choose another folder"
        raise UserError(f"{file} cannot be written ({error.strerror}); {kept}") from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)


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
    if file.is_dir():
        raise UserError(f"{file} is a folder; name a file to write")
    folder = next((parent for parent in file.parents if os.path.exists(parent)), file.parent)
    try:
        with tempfile.TemporaryFile(dir=folder):  # asking for permissions does not tell of read-only disks
            pass
    except OSError as error:
        raise UserError(f"{file} cannot be written ({folder}: {error.strerror}); choose another folder") from error


def require_own_file(file: Path | None, *inputs: Path) -> None:
    """Raises UserError where ``--json`` names what cannot be written, or a file that is one of the inputs or in one."""
    if file is None:
        return
    require_writable(file)
    for path in inputs:
        if file.exists() and file.resolve().is_relative_to(path.resolve()):
            raise UserError(f"{file} belongs to {path}, which is read; --json would overwrite it: name another file")


def require_empty(folder: Path) -> None:
    """Raises UserError where there is a file already, or a folder with something in it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists already and is not an empty folder; name a new one")


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields a folder to fill, which becomes ``out`` when all has gone well and vanishes otherwise.

    UserError where ``out`` exists and is not an empty folder, the disk is full, or the file system has another fault.
    """
    require_empty(out)
    partial = out.parent / f".{out.name}.{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            out.rmdir()  # it is empty
        os.replace(partial, out)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise UserError(f"{out}: {why_not_written(error)}; free some space and try again") from error
        raise UserError(f"{error.filename or out}: {error.strerror or error}; check paths and permissions") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
