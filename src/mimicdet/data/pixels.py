"""Tells image files that were exchanged since: marks of their bytes, cheap to take before a training."""

import os
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mimicdet.errors import UserError

BUDGET = 2**30
"""So many bytes are read of all files together, at most."""


def file_marks(files: Sequence[Path]) -> list[int]:
    """Returns a number for each file that changes with its content, 0 <= mark < 2**32.

    Each file has an equal share of ``BUDGET``. One that is no larger is read in full. Of a larger one its size counts
    and its first, middle and last bytes, which another image or another compression changes; a change of some pixels
    between them, in a file without compression, goes unnoticed. UserError where a file cannot be read.
    """
    share = BUDGET // max(len(files), 1)
    with ThreadPoolExecutor(thread_name_prefix="marks") as pool:
        return list(pool.map(lambda file: _mark(file, share), files))


def _mark(file: Path, share: int) -> int:
    try:
        with open(file, "rb") as stream:
            size, piece = os.fstat(stream.fileno()).st_size, share // 3
            mark = zlib.crc32(str(size).encode())
            for start, length in [(0, size)] if size <= share else [(n * (size - piece) // 2, piece) for n in range(3)]:
                stream.seek(start)
                while length > 0 and (block := stream.read(min(length, 2**20))):
                    mark, length = zlib.crc32(block, mark), length - len(block)
            return mark
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); restore it, or correct its permissions") from error
