"""Text files and names, read the same way by every format."""

from __future__ import annotations

from pathlib import Path

from mimicdet.errors import UserError


def read_text(file: Path) -> str:
    """The file's text, UTF-8 with or without a byte-order mark. UserError if it is missing or no such text."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file}: is not UTF-8 text (byte {error.start}); save it as UTF-8, or restore it if it was damaged"
        ) from None
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such file; restore it or correct the path") from None
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check the path and its permissions") from None


def clean_name(name: str, file: Path, item: str) -> str:
    """A category's name with runs of white space made one blank. UserError if nothing printable is left."""
    cleaned = " ".join(name.split())
    if not cleaned or not cleaned.isprintable():
        raise UserError(f"{file}: {item}: the category name {name!r} is empty or not printable; correct it")
    return cleaned
