"""The architecture's import rule: which part of the package may know which other.

ops, data <- models, teachers <- assign, losses <- tasks <- engine <- the command line; prediction knows models, never
tasks; nothing that builds or runs a model sees a settings object.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mimicdet

PACKAGE = Path(mimicdet.__file__).parent
EVERYONE = {"errors", "files"}  # may be imported by all
MAY_IMPORT = {
    "errors": set(),
    "files": set(),
    "pypi": {"files"},
    "config": set(),
    "settings_file": {"config"},
    "ops": set(),
    "data": {"ops"},
    "weights": {"data", "pypi"},
    "models": {"ops", "data", "pypi", "weights"},
    "inference": {"config", "ops", "data", "models"},
    "teachers": {"ops", "data", "models", "inference"},
    "assign": {"ops", "data", "models", "teachers"},
    "assign_dense": {"ops", "data", "models", "teachers", "assign"},
    "losses": {"ops", "data", "models", "teachers"},
    "build": {"config", "data", "models", "weights"},
    "tasks": {
        "config", "settings_file", "ops", "data", "weights", "models", "inference", "teachers", "assign",
        "assign_dense", "losses", "build",
    },
    "report": {"ops", "data", "models"},
    "export": {"data", "models", "inference"},
    "predict": {"config", "ops", "data", "weights", "models", "inference", "build", "export", "report"},
    "engine": {
        "config", "settings_file", "ops", "data", "weights", "models", "inference", "teachers", "assign", "losses",
        "build", "tasks", "report", "predict",
    },
}  # fmt: skip
TOP = {"__init__", "__main__", "cli", "commands", "lab"}  # nobody imports these, they import what they like


def part_of(module: str) -> str:
    """``mimicdet.data.tiles`` -> ``data``."""
    return module.split(".")[1] if "." in module else "__init__"


def module_name(file: Path) -> str:
    return ".".join(("mimicdet", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imported_modules(tree: ast.AST) -> set[str]:
    """Modules of the package that a file imports anywhere, inside functions and for type checking too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module is not None
            if node.module == "mimicdet":
                found |= {f"mimicdet.{alias.name}" for alias in node.names}
            else:
                found.add(node.module)
    return {name for name in found if name == "mimicdet" or name.startswith("mimicdet.")}


def breaches(module: str, source: str) -> set[str]:
    part = part_of(module)
    if part in TOP:
        return set()
    allowed = EVERYONE | MAY_IMPORT[part] | {part}
    return {name for name in imported_modules(ast.parse(source)) if part_of(name) not in allowed}


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_imports_only_what_its_part_may_know(file: Path) -> None:
    part = part_of(module_name(file))
    assert part in MAY_IMPORT or part in TOP, f"say in MAY_IMPORT what the new part '{part}' may know"
    assert breaches(module_name(file), file.read_text()) == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_holds_one_idea(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 420
    assert file.stem not in ("utils", "util", "helpers", "misc", "common")


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("mimicdet.models.x", "from mimicdet.config import Settings", {"mimicdet.config"}),
        ("mimicdet.models.x", "def f():\n    import mimicdet.tasks.mimic", {"mimicdet.tasks.mimic"}),
        ("mimicdet.predict", "from mimicdet import tasks, data", {"mimicdet.tasks"}),
        ("mimicdet.ops.x", "import torch\nfrom mimicdet.errors import UserError", set()),
        ("mimicdet.data.x", "from mimicdet.models.detector import Places", {"mimicdet.models.detector"}),
        ("mimicdet.engine.x", "from mimicdet.cli import main", {"mimicdet.cli"}),
        ("mimicdet.cli", "from mimicdet.engine.train import train", set()),
    ],
)
def test_the_rule_itself(module: str, source: str, found: set[str]) -> None:
    assert breaches(module, source) == found
