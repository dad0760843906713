"""Every command that the program prints can be given as it is printed; training's and the demo's own are run."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

import mimicdet
from mimicdet import cli
from mimicdet.cli import COMMANDS, OVERVIEW
from mimicdet.engine import run_folder
from mimicdet.settings_file import load_settings, preset_header, preset_names

SOURCE = Path(mimicdet.__file__).parent


def commands_in(text: str) -> list[list[str]]:
    """The words behind `mimicdet` of each command in a text; a backslash at a line's end goes on."""
    found = re.findall(rf"\bmimicdet ((?:{'|'.join(COMMANDS)})(?: [^\n`]*)?)", text.replace("\\\n", " "))
    return [shlex.split(command.split("   ")[0]) for command in found]


def test_those_of_the_overview() -> None:
    commands = commands_in(OVERVIEW)
    assert [words[0] for words in commands] == ["check", "train", "eval", "predict", "export"]
    for name, *words in commands:
        assert cli.parse(name, words)


@pytest.mark.parametrize("preset", preset_names())
def test_those_in_the_headers_of_presets(preset: str) -> None:
    ((name, *words), *others) = commands_in("\n".join(preset_header(preset)).partition("\nCost:")[0].split("(mim")[-1])
    assert (name, others) == ("train", [])
    parsed = cli.parse(name, words)
    assert (parsed.preset, parsed.settings) == (preset, load_settings(preset=preset))


def test_that_in_the_settings_of_a_run(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(run_folder._HEADER + "task: detect\n")
    ((name, *words),) = commands_in(run_folder._HEADER.replace("THIS_FILE", str(file)))
    assert cli.parse(name, words).settings.task == "detect"


def test_those_in_messages() -> None:
    """Whole strings of the source that name a command in backticks, apart from what is filled in."""
    told = set()
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            text = ast.unparse(node) if isinstance(node, ast.JoinedStr) else getattr(node, "value", "")
            if isinstance(text, str) and not text.startswith("mimicdet "):
                told |= {command for command in re.findall(r"(?<!`)`mimicdet ([^`]*)`", text)}
    assert {"train --help", "presets", "export"} <= told
    for command in told:
        name, *words = shlex.split(re.sub(r"\{.*?\}", "x", command))
        assert name in COMMANDS
        if words and words != ["--help"]:
            assert cli.parse(name, [word for word in words if word != "..."])
