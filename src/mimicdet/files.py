"""Writing files so that nothing is ever half-written."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from mimicdet.errors import UserError


def make_folder(folder: Path) -> None:
    """A folder and those above it, where there are none yet; UserError where they cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: the folder cannot be made ({error.strerror}); choose another one") from error


def replace_file(file: Path, content: bytes) -> None:
    """Writes a file so that a crash at any moment leaves the old content or the new, never half of it.

    Raises:
        UserError: the disk is full or the folder is not writable; the old content is untouched.
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
        raise UserError(
            f"{file} cannot be written ({error.strerror}); what was there before is untouched: free space or choose "
            f"another folder"
        ) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
