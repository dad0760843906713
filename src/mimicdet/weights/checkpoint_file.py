"""Seals and reads the files that hold the state of training: checkpoints/last.pt, and previous.pt, the one before.

A checkpoint is never unpickled: torch's ``weights_only`` reader takes tensors, numbers, text and containers, nothing
else. It ends with a checksum of all its bytes, for torch reads on over a flipped bit, and zip files have none of their
directory.
"""

import contextlib
import hashlib
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from mimicdet.errors import UserError
from mimicdet.streams import SPECIAL, is_special

FORMAT = "mimicdet checkpoint 2"
LAST, PREVIOUS = "last.pt", "previous.pt"
BROKEN = "last-broken.pt"
"""A last one that was passed over is kept under this name, out of the way of what is whole."""

_MARK = b"\nmimicdet sha256 "
_SEAL_BYTES = len(_MARK) + 2 * hashlib.sha256().digest_size
_BLOCK = 2**20


def seal(file: BinaryIO) -> None:
    """Appends the checksum to a checkpoint that has been written to ``file``, which can be read too.

    Readers of zip files look for the end of one from behind, and pass over what follows.
    """
    size = file.seek(0, os.SEEK_END)
    digest = _digest(file, size)
    file.seek(0, os.SEEK_END)
    file.write(_MARK + digest.encode())


def newest_checkpoint(folder: Path, *, parts: Sequence[str] = ()) -> tuple[Path | None, str | None]:
    """Returns the newest checkpoint that is whole, and a sentence about the last one where it was passed over.

    Every byte is checked, and that ``parts`` are there, with values by name. A broken last one is renamed, lest the
    next save makes it the previous one in place of that which is whole. The path is None where the run ended before it
    wrote a checkpoint; UserError where there are some and all are broken.
    """
    broken: list[str] = []
    for file in filter(Path.exists, (folder / LAST, folder / PREVIOUS)):
        if (fault := fault_in(file) or _fault_inside(file, parts)) is None:
            if file.name == LAST:
                return file, None
            if broken:
                with contextlib.suppress(OSError):
                    os.replace(folder / LAST, folder / BROKEN)
            why = broken[0] if broken else f"{folder / LAST} is not there"
            return file, f"{why}; going on from {file}, the one before"
        broken.append(f"{file} is broken ({fault})")
    if broken:
        raise UserError(f"{' and '.join(broken)}; start again with --overwrite, or put back a copy of a checkpoint")
    return None, None


def _fault_inside(file: Path, parts: Sequence[str]) -> str | None:
    """Returns what is wrong with what a whole file holds, which may be anything that somebody sealed."""
    try:
        state = load_checkpoint(file, lazily=True)
    except UserError:
        return f"it holds no {FORMAT}"
    missing = next((part for part in parts if not isinstance(state.get(part), dict)), None)
    return None if missing is None else f"it lacks the {missing} of a run"


def fault_in(file: Path) -> str | None:
    """Returns what is wrong with a checkpoint, None where nothing is: every byte is as it was written."""
    if is_special(file):
        return f"it {SPECIAL}"
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, os.SEEK_END)
            opened.seek(max(0, size - _SEAL_BYTES))
            end = opened.read()
            if not end.startswith(_MARK):
                return "the checksum at its end is missing"
            if _digest(opened, size - _SEAL_BYTES) != end.removeprefix(_MARK).decode(errors="replace"):
                return "it has changed since it was written"
    except OSError as error:
        return error.strerror or str(error)
    return None


def _digest(file: BinaryIO, size: int) -> str:
    """The checksum of the first ``size`` bytes."""
    digest = hashlib.sha256()
    file.seek(0)
    while size > 0 and (block := file.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)
    return digest.hexdigest()


def load_checkpoint(file: Path, *, lazily: bool = False) -> dict[str, Any]:
    """Reads a checkpoint, to the CPU; UserError when it is none of ours or holds more than tensors and plain values.

    ``lazily``: tensors are read from the file when they are used, which may then not change.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of old kinds of pickles
            state = torch.load(file, map_location="cpu", weights_only=True, mmap=lazily)
    except FileNotFoundError:
        raise UserError(
            f"{file} is not there for every process; a run folder must lie where all machines of the run can read it"
        ) from None
    except Exception as error:  # whatever a file that is something else provokes in the reader
        raise UserError(
            f"{file} cannot be read as a checkpoint (it holds something else); start again with --overwrite"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(
            f"{file} is not a checkpoint of this version of mimicdet ({FORMAT!r}); start again with --overwrite"
        )
    return state
