"""Files that a command writes after much work: what is wrong with their place is said before it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from mimicdet.errors import UserError


def require_writable(file: Path) -> None:
    """UserError unless ``file`` could be written now, together with folders that are not there yet; makes nothing."""
    if file.is_dir():
        raise UserError(f"{file} is a folder; name a file to write")
    folder = next((parent for parent in file.parents if os.path.exists(parent)), file.parent)
    try:
        with tempfile.TemporaryFile(dir=folder):  # asking for permissions does not tell of read-only disks
            pass
    except OSError as error:
        raise UserError(f"{file} cannot be written ({folder}: {error.strerror}); choose another folder") from error
