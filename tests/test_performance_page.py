"""docs/performance.md holds the benchmarks' own files, not figures typed by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_the_page_is_what_the_measurements_say() -> None:
    done = subprocess.run([sys.executable, DOCS / "make_performance.py", "--check"])
    assert done.returncode == 0, "run: python docs/make_performance.py"
