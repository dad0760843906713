"""What CONTRIBUTING.md shows as examples does what it says, in a copy of the package."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import EXAMPLE, ROOT, Block, blocks, commands
from tests.docs.workspace import with_sizes

PLACE = re.compile(
    r"# (?P<file>(src|docs)/\S+?)(, (?P<where>below|above|in place of) `(?P<line>.+)`|, (?P<end>at the end))?$"
)
"""The first line of a block: the file, and where in it the block goes unless it is the whole."""
LOSS, FAMILY = (
    section.partition("\n")[2] for section in (ROOT / "CONTRIBUTING.md").read_text("utf-8").split(EXAMPLE)[1:]
)


COPIED = ("src", "docs", "tests", "studies", "README.md", "pyproject.toml")
SETTINGS_TESTS = ("tests/test_settings_page.py", "tests/test_config.py")
"""What looks after settings: each is on the page, explained in short sentences, and of use to somebody."""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the repository that may be changed."""
    copy = tmp_path / "copy"
    for name in COPIED:
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, copy / name)
    return copy


def apply(block: Block, repository: Path) -> None:
    first, _, code = block.code.partition("\n")
    place = PLACE.match(first)
    assert place, f"{block.place}: the first line should say where this goes"
    file = repository / place["file"]
    assert file.exists() == bool(place["where"] or place["end"]), f"{block.place}: {file} is there, or is not"
    text = file.read_text("utf-8") if file.exists() else ""
    if place["where"]:
        line = place["line"] + "\n"
        assert text.count(line) == 1, f"{block.place}: the line is there {text.count(line)} times"
        code += "\n"
        text = text.replace(line, {"below": line + code, "above": code + line}.get(place["where"], code))
    else:
        text += ("\n\n" if text else "") + code + "\n"
    file.write_text(text, "utf-8")


def run_section(section: str, package: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(package / "src")}
    changed = set()
    for block in blocks(section, "CONTRIBUTING.md"):
        if block.language in ("python", "markdown"):
            apply(block, package)
            if block.language == "python":
                changed.add(package / block.code.split()[1].rstrip(","))
            continue
        assert block.language == "bash"
        for command in commands(block.code):
            program, *words = shlex.split(command, comments=True)
            folder = package if program == "python" else None  # of the repository, or of a user's data
            words = words if program == "python" else ["-m", *with_sizes([program, *words])]
            done = subprocess.run([sys.executable, *words], env=environment, cwd=folder, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}\n{done.stderr}"
    if not changed:
        return
    ruff = [Path(sys.executable).with_name("ruff"), "check", "--config", ROOT / "pyproject.toml", *changed]
    done = subprocess.run(ruff, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def require_settings_in_order(package: Path) -> None:
    """Runs the tests of settings in the copy that an example has changed."""
    environment = {**os.environ, "PYTHONPATH": str(package / "src")}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *SETTINGS_TESTS]
    done = subprocess.run(words, env=environment, cwd=package, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_new_loss_is_one_file_and_one_line(package: Path, workspace: Path) -> None:
    run_section(LOSS, package)
    require_settings_in_order(package)
    records = [json.loads(line) for line in Path("runs/gap/metrics.jsonl").read_text().splitlines()]
    found = [record["score_gap"] for record in records if record["kind"] == "train"]
    assert found and all(0 < value < 1 for value in found)  # noqa: PT018


def test_a_new_family_is_one_file_a_class_and_one_line(package: Path, workspace: Path) -> None:
    run_section(FAMILY, package)
    require_settings_in_order(package)
    for run in ("centers", "learner"):
        assert json.loads(Path("runs", run, "model", "model.json").read_text())["family"] == "centers"
    assert Path("centers.json").is_file()
    # Trusted, for one epoch on eight images makes no teacher
    teaches = "mimicdet train cells --preset small_gfl --task distill --teacher runs/centers/model --out runs/taught"
    run_section(f"```bash\n{teaches} --distill.trust_teacher\n```", package)


def test_the_section_needs_its_line(package: Path, workspace: Path) -> None:
    """Without the line in the table the command fails, and so does a block for a line that is not there."""
    without = re.sub(r'^    "centers": Family.*\n', "", FAMILY, flags=re.MULTILINE)
    with pytest.raises(AssertionError, match="centers"):
        run_section(without, package)
    with pytest.raises(AssertionError, match="the line is there 0 times"):
        apply(Block("here:1", "python", "# src/mimicdet/build.py, below `x = {`\n    1: 2,", ""), package)
