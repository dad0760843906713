"""Image files of a data set: finding them in folders, and looking at many at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from mimicdet.data.decode import IMAGE_SUFFIXES, image_size, read_image
from mimicdet.errors import UserError


def list_images(folder: Path) -> list[Path]:
    """All image files in a folder and its subfolders, told by their suffix, sorted by path. Hidden ones excepted."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in files
            if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not name.startswith(".")
        ]
    return sorted(found)


def find_image(name: str, folders: Iterable[Path]) -> Path | None:
    """The first file of that name (a relative path, perhaps with backslashes) in the folders, in their order."""
    for spelling in (name, name.replace("\\", "/")) if "\\" in name else (name,):
        for folder in folders:
            file = os.path.join(folder, spelling)
            if os.path.isfile(file):
                return Path(file)
    return None


def inspect_images(
    files: Sequence[Path], *, decode: bool, progress: bool, label: str
) -> list[tuple[int, int] | UserError]:
    """Height and width of each upright image, or what is wrong with it, looked at by a pool of threads.

    With ``decode`` the pixels are decoded too, which finds truncated files. A bar with ``label`` shows progress
    on a terminal.
    """

    def look(file: Path) -> tuple[int, int] | UserError:
        try:
            if decode:
                height, width, _ = read_image(file).shape
                return height, width
            return image_size(file)
        except UserError as error:
            return error

    hide = not (progress and sys.stderr.isatty())
    with ThreadPoolExecutor(thread_name_prefix="images") as pool:  # Ctrl-C cancels what pool.map has not begun
        return list(tqdm(pool.map(look, files), total=len(files), desc=label, unit="image", disable=hide, leave=False))
