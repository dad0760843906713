"""What stands in the project's Markdown: code blocks to run, and sentences to read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGES = sorted(
    {ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")}
    - {ROOT / "docs" / "index.md", ROOT / "docs" / "contributing.md"},  # the site's, which hold the first two
    key=lambda page: page.name.lower(),
)
GENERATED = {"settings.md"}
"""Made from the settings' own docstrings, which their tests look after."""
EXAMPLE = "\n## Example: "
"""What begins a section of CONTRIBUTING.md that changes the package itself."""

_FENCE = re.compile(r"^( *)```(\S*)\s*$")
_MARK = re.compile(r"<!-- not run: (.+?) -->\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    place: str  # "README.md:12", its first line
    language: str
    code: str
    not_run: str  # why it is not run; "" where it is


def blocks(text: str, name: str) -> list[Block]:
    """Returns the fenced blocks of a page or of a docstring, in their order, less those for the site's builder.

    A comment ``<!-- not run: WHY -->`` above a block keeps it from being run.
    """
    found, mark, lines = [], "", text.splitlines()
    start: int | None = None
    indent = language = ""
    for number, line in enumerate(lines):
        if fence := _FENCE.match(line):
            if start is None:
                start, indent, language = number + 1, fence[1], fence[2]
            else:
                code = "\n".join(each.removeprefix(indent) for each in lines[start:number])
                if not language.startswith("{"):
                    found.append(Block(f"{name}:{start + 1}", language, code, mark))
                start, mark = None, ""
        elif start is None and line.strip():
            comment = _MARK.match(line.strip())
            mark = comment[1] if comment else ""
    if start is not None:
        raise ValueError(f"{name}:{start}: this block has no end")
    return found


def commands(code: str) -> list[str]:
    """Returns the commands of a shell block; a backslash at the end of a line joins it with the next."""
    joined = re.sub(r"\s*\\\n\s*", " ", code)
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


def sentences(text: str) -> list[str]:
    """Returns the sentences of a page's prose: no code, tables, headings or pictures; links are their text."""
    text = re.sub(r"^ *```\S*$.*?^ *```\s*$", "\n", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", text)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    paragraphs: list[str] = [""]
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith(("|", "#", "::: ")):
            paragraphs.append("")
        elif re.match(r"([-*]|\d+\.) ", line):
            paragraphs.append(re.sub(r"^([-*]|\d+\.) ", "", line))
        else:
            paragraphs[-1] += " " + line
    found: list[str] = []
    for paragraph in paragraphs:
        found += re.split(r"(?<=[.!?])[*_)\"]*\s+", paragraph.strip())
    return [sentence for sentence in found if sentence]
