"""README and docs/ are written in plain sentences, and what they name exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.docs.pages import EXAMPLE, GENERATED, PAGES, ROOT, blocks, commands, sentences

FILES = (".json", ".jsonl", ".onnx", ".pt", ".pt2", ".xml", ".bin", ".py")
LONGEST = 35
"""Words of a sentence."""
BANNED = ("besides", "as is", "hang on", "hangs on", "to be had", "what is")
PROSE = [*(page for page in PAGES if page.name not in GENERATED), ROOT / "CHANGELOG.md"]
PREFIXES = (ROOT, ROOT / "src" / "mimicdet", ROOT / "docs", ROOT / "tests")
"""Where a file that a page names may lie."""
USERS_OWN = {"runs", "cells", "photos", "out", "site"}
"""Folders that a user has."""
IN_THEM = {"model", "model-last", "pictures", "checkpoints", "labels", "images"}
"""What a run folder or a data set has."""


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_no_sentence_is_long(page: Path) -> None:
    long = [sentence for sentence in sentences(read(page)) if len(sentence.split()) > LONGEST]
    assert not long, f"{page.name}: more than {LONGEST} words in: " + "\n".join(long)


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_no_phrase_is_crooked(page: Path) -> None:
    for sentence in sentences(read(page)):
        for phrase in BANNED:
            assert not re.search(rf"\b{phrase}\b", sentence, re.IGNORECASE), f"{page.name}: '{phrase}' in: {sentence}"


def test_the_readme_has_two_make_commands() -> None:
    """``make demo`` and ``make test``, and both are there."""
    named = [c.split("#")[0].strip() for b in blocks(read(ROOT / "README.md"), "") for c in commands(b.code)]
    assert [command for command in named if command.startswith("make")] == ["make demo", "make test"]
    for target in ("demo", "test", "docs"):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(("language", "lines"), [("bash", 10), ("python", 10)])
def test_the_readme_shows_ten_lines(language: str, lines: int) -> None:
    """Of commands, and of Python, in one block each."""
    found = [b.code.strip().splitlines() for b in blocks(read(ROOT / "README.md"), "") if b.language == language]
    assert lines in [len([line for line in block if line.strip()]) for block in found]


def test_the_results_are_one_page() -> None:
    assert len(read(ROOT / "docs" / "results.md").splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Files exist, and headings too; addresses on the web are not looked up."""
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if target.startswith(("http://", "https://")):
            continue
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.exists(), f"{page.name} links to {target}"
        if heading:
            assert heading in {anchor(line) for line in read(file).splitlines()}, f"{page.name} links to {target}"


def anchor(line: str) -> str:
    """Returns the fragment that GitHub gives a heading; "" for another line."""
    title = re.match(r"#+ (.*)", line)
    return re.sub(r"[^\w\- ]", "", title[1].lower()).replace(" ", "-") if title else ""


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_named_files_exist(page: Path) -> None:
    """What stands in backquotes and looks like a file or folder of the project is one."""
    inline = re.sub(r"^ *```\S*$.*?^ *```\s*$", "", read(page), flags=re.DOTALL | re.MULTILINE)
    for name in re.findall(r"`([a-z_*][\w*.-]*/(?:[\w*./-]*\.(?:py|md|ya?ml))?)`", inline):
        if name.split("/")[0] not in USERS_OWN | IN_THEM:
            assert any(list(prefix.glob(name)) for prefix in PREFIXES), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.name)
def test_named_settings_exist(page: Path) -> None:
    """Every ``section.key`` and ``--section.key`` of a setting is on the page of settings."""
    known = set(re.findall(r"^\| `([\w.]+)` ", read(ROOT / "docs" / "settings.md"), flags=re.MULTILINE))
    named_sections = {name.split(".")[0] for name in known if "." in name}
    for name in re.findall(r"(?:--|`)([a-z_]+\.[a-z_0-9]+)\b", read(page).partition(EXAMPLE)[0]):
        if name.split(".")[0] in named_sections and not name.endswith(FILES):
            assert name in known, f"{page.name} names the setting {name}"
