"""Looks for files in folders and below, through symbolic links too, each real folder once so that loops end."""

import glob
import os
from collections import deque
from contextlib import suppress
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from mimicdet.errors import UserError


def walk_files(folder: Path) -> list[Path]:
    """Returns all files in a folder and below but hidden ones, sorted by path.

    Symbolic links to folders are followed after all others, each real folder is searched once, and those above
    ``folder`` never: their files belong to something else. A link that leads nowhere counts as a file.
    UserError: a folder that cannot be read.
    """
    found: list[str] = []
    seen = {_identity(str(above)) for above in Path(os.path.realpath(folder)).parents}
    waiting, linked = deque([os.fspath(folder)]), deque[str]()
    while waiting or linked:
        place = waiting.popleft() if waiting else linked.popleft()
        if (identity := _identity(place)) in seen:
            continue
        seen.add(identity)
        try:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            problem = f"the folder cannot be read ({error.strerror}); correct its permissions, or remove it"
            raise UserError(f"{place}: {problem}") from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = os.path.join(place, entry.name)
            link = entry.is_symlink()
            if os.path.isdir(path) if link else entry.is_dir():
                (linked if link else waiting).append(path)
            else:
                found.append(path)
    return sorted(map(Path, found))


def list_names(folder: Path) -> list[str]:
    """Returns the names right inside a folder, none where it cannot be read."""
    with suppress(OSError):
        return os.listdir(folder)
    return []


def _identity(folder: str) -> tuple[int, int]:
    try:
        about = os.stat(folder)
    except OSError:  # it cannot be read, which its listing says
        return -1, hash(folder)
    return about.st_dev, about.st_ino


def glob_files(pattern: str) -> list[Path]:
    """Returns the files that a pattern such as ``photos/**/*.jpg`` names; ``**`` searches as `walk_files` does."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return [Path(file) for file in glob.glob(pattern) if os.path.isfile(file)]
    first = parts.index("**")
    tops = sorted(glob.glob(os.path.join(*parts[:first]))) if first else [""]
    found: list[Path] = []
    for top in (top for top in tops if os.path.isdir(top or ".")):
        files = (file.relative_to(top) for file in walk_files(Path(top)))
        found += [Path(top, file) for file in files if _matches(file.parts, parts[first:])]
    return found


def _matches(names: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    """Says whether the parts of a path match those of a pattern, in which ``**`` stands for any number of parts."""

    @cache
    def rest_matches(name: int, pattern: int) -> bool:
        if pattern == len(patterns):
            return name == len(names)
        if patterns[pattern:] == ("**",):
            return name < len(names)
        if patterns[pattern] == "**":
            return rest_matches(name, pattern + 1) or (name < len(names) and rest_matches(name + 1, pattern))
        return name < len(names) and fnmatch(names[name], patterns[pattern]) and rest_matches(name + 1, pattern + 1)

    return rest_matches(0, 0)
