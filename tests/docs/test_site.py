"""The documentation builds as a site, without a warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    words = ["-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "-d", tmp_path / "read"]
    done = subprocess.run([sys.executable, *words, ROOT / "docs", tmp_path / "site"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    start = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert "Two commands" in start
    for page in ("results", "api", "contributing"):
        assert f'href="{page}.html"' in start
    assert "from_pretrained" in (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
