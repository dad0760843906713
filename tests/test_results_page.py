"""docs/results.md holds what the studies wrote, not figures typed by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_is_what_the_studies_say() -> None:
    done = subprocess.run([sys.executable, DOCS / "make_results.py", "--check"])
    assert done.returncode == 0, "run: python docs/make_results.py"


def test_every_table_has_its_study_and_its_picture() -> None:
    for file in (DOCS / "results").glob("*.table.md"):
        name = file.name.removesuffix(".table.md")
        assert (DOCS.parent / "studies" / f"{name}.yaml").is_file()
        assert (DOCS / "results" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (DOCS / "results" / f"{name}.csv").is_file()
