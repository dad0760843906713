"""Settings of the documentation's site, which `make docs` builds with Sphinx; nothing is fetched."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
BESIDE = {"index": "README.md", "contributing": "CONTRIBUTING.md"}
"""Pages of the site that lie beside docs/."""

project = "mimicdet"
release = version = importlib.metadata.version("mimicdet")
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["performance/summary.md"]
html_theme = "furo"
html_title = "mimicdet"
html_copy_source = False
myst_heading_anchors = 3
default_role = "code"  # of docstrings, which have Markdown's backquotes too
suppress_warnings = ["myst.header"]  # table.md of a study begins with a heading of the second level
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False


def lay_beside(app: Sphinx, name: str, source: list[str]) -> None:
    """Gives the start page README.md's text and so on, with the links as they are from docs/."""
    if name in BESIDE:
        text = (ROOT / BESIDE[name]).read_text(encoding="utf-8").replace("](docs/", "](")
        for page, file in BESIDE.items():
            text = text.replace(f"]({file}", f"]({page}.md")
        source[0] = text + source[0]


def render_code(app: Sphinx, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Shows the fenced blocks of code of a docstring, whose other text is reStructuredText."""
    inside = False
    for number, line in enumerate(lines):
        if fence := re.match(r"( *)```(\w*)$", line):
            inside = not inside
            lines[number] = f"{fence[1]}.. code-block:: {fence[2]}\n" if inside else ""
        elif inside:
            lines[number] = f"    {line}"
    lines[:] = "\n".join(lines).split("\n")


def setup(app: Sphinx) -> None:
    app.connect("source-read", lay_beside)
    app.connect("autodoc-process-docstring", render_code)
