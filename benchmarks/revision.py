"""Another revision of this repository beside the working tree, for what compares the two."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextmanager
def checked_out(revision: str) -> Iterator[Path]:
    """Checks a revision out into a temporary folder, which is removed afterwards.

    Raises:
        SystemExit: git does not know the revision, or this is no clone.
    """
    with tempfile.TemporaryDirectory(prefix="mimicdet-") as temporary:
        folder = Path(temporary) / "checkout"
        done = _git("worktree", "add", "--detach", str(folder), revision)
        if done.returncode:
            sys.exit(f"{revision} cannot be checked out: {done.stderr.strip().splitlines()[-1]}")
        try:
            yield folder
        finally:
            _git("worktree", "remove", "--force", str(folder))


def environment(checkout: Path, *, threads: int) -> dict[str, str]:
    """Returns the variables under which this interpreter imports a checkout's package and computes on the CPU."""
    count = str(threads)
    return os.environ | {
        "PYTHONPATH": str(checkout / "src"),
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "CUDA_VISIBLE_DEVICES": "",
        "ACCELERATE_USE_CPU": "true",
    }


def require_package_of(checkout: Path) -> None:
    """Ends the program where Python would import another checkout's package than ``environment`` asked for."""
    from importlib.util import find_spec

    found = find_spec("mimicdet")
    if found is None or not Path(str(found.origin)).is_relative_to(checkout):
        sys.exit(f"mimicdet would be imported from {found and found.origin}, not from {checkout}")


def name_of(revision: str) -> str:
    """Returns a revision's short hash and subject, for people to read."""
    return _git("show", "--no-patch", "--format=%h %s", revision).stdout.strip()


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)
