"""A repository with the package as it is, and a change in its working tree that is not committed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def clone(folder: Path, change: str) -> Path:
    """Makes a repository whose one commit is this package, and adds a change to what ``import mimicdet`` runs."""
    made = folder / "clone"
    for name in ("src", "benchmarks"):
        shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    git(made, "init", "--quiet")
    git(made, "add", ".")
    git(made, "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "-m", "as it was")
    with (made / "src/mimicdet/__init__.py").open("a") as file:
        file.write(change)
    return made


def compare_with_commit(made: Path, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Runs a script of ``benchmarks`` there against the commit."""
    words = [sys.executable, str(made / "benchmarks" / script), "--against", "HEAD", *options]
    return subprocess.run(words, capture_output=True, text=True, cwd=made.parent)


def git(made: Path, *words: str) -> str:
    """Returns what a git command prints."""
    return subprocess.run(["git", "-C", str(made), *words], check=True, capture_output=True, text=True).stdout
