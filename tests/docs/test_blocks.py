"""Every command and code block of README and docs/ does what it says, but for those marked ``<!-- not run: WHY -->``.

A page's blocks run one after the other in a folder of their own, as a reader would type them. Only ``mimicdet train``
and ``load_settings`` get something added: tiny sizes.
"""

from __future__ import annotations

import inspect
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import mimicdet
from mimicdet.cli import main
from mimicdet.settings_file import load_settings
from tests.docs.pages import EXAMPLE, PAGES, ROOT, Block, blocks, commands
from tests.docs.workspace import small_settings, with_sizes

WHYS = ("minutes", "hours", "installs", "needs COCO", "needs a GPU", "needs 8 GPUs")
"""Reasons for a block not to be run; each mark begins with one."""


def run_all(found: list[Block]) -> None:
    """Runs the blocks one after the other; Python blocks see the names of those before them."""
    names: dict[str, Any] = {}
    for block in found:
        if block.not_run:
            assert block.not_run.startswith(WHYS), f"{block.place}: why is it not run?"
        elif block.language == "bash":
            for command in commands(block.code):
                run_command(command, block.place)
        elif block.language == "python":
            exec(compile(block.code, block.place, "exec"), names)
        elif block.language == "yaml":
            read_yaml(block)
        else:
            assert block.language == "text", f"{block.place}: say what it is: bash, python, yaml or text"


def run_command(command: str, place: str) -> None:
    words = shlex.split(command, comments=True)
    if words[0] != "mimicdet" or ">" in words:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{place}: {command}\n{done.stderr}"
        return
    words = with_sizes(words)
    if words[1] == "train" and "--resume" not in words:
        shutil.rmtree(words[words.index("--out") + 1], ignore_errors=True)  # a reader's is new
    assert main(words[1:]) == 0, f"{place}: {command}"


def read_yaml(block: Block) -> None:
    """A file of settings; the first line's comment names it, and the page's commands read it."""
    file = Path(block.code.splitlines()[0].removeprefix("# "))
    file.write_text(block.code)
    if "runs:" not in block.code:
        load_settings(config=file)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_a_page(page: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mimicdet, "load_settings", small_settings, raising=False)
    text = page.read_text(encoding="utf-8").partition(EXAMPLE)[0]  # test_contributing.py runs those that follow
    run_all(blocks(text, str(page.relative_to(ROOT))))


@pytest.mark.parametrize("name", mimicdet.__all__)
def test_blocks_of_a_docstring(name: str, workspace: Path) -> None:
    run_all(blocks(inspect.getdoc(getattr(mimicdet, name)) or "", f"mimicdet.{name}"))


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("bash", "mimicdet evil runs/cells/model --data cells"),
        ("bash", "mimicdet eval runs/cells/model --data cells --jason ap.json"),
        ("bash", "mimicdet eval runs/nosuch/model --data cells"),
        ("bash", "mimicdet train cells --preset smal --out runs/new"),
        ("bash", "mimicdet train cells --preset small --out runs/new --model.offsets lerned"),
        ("bash", "python studies/nosuch.py"),
        ("python", "from mimicdet import Detecter"),
        ("yaml", "# mine.yaml\nmodel:\n  bakbone: resnet50"),
        ("console", "mimicdet check cells"),
    ],
)
def test_a_wrong_block_fails(language: str, code: str, workspace: Path) -> None:
    with pytest.raises(Exception, match=r"."):
        run_all([Block("here:1", language, code, "")])


def test_marks_and_joined_lines() -> None:
    page = "a\n\n<!-- not run: hours -->\n```bash\nx \\\n    y  # z\n```\n\n```python\nq = 1\n```\n"
    first, second = blocks(page, "p")
    assert (first.not_run, first.place, second.not_run) == ("hours", "p:5", "")
    assert commands(first.code) == ["x y  # z"]
