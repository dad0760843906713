"""The import rule: a part of the package knows those before it alone, by whatever way, and nobody knows the lab."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import mimicdet

PACKAGE = Path(mimicdet.__file__).parent
ORDER = (
    *("errors", "arguments", "locks", "streams", "files", "yaml_loader", "config", "settings_file", "ops", "data"),
    *("weights", "models", "assign"),
    *("losses", "families", "build", "inference", "teachers", "tasks", "report", "export", "predict", "engine", "api"),
    *("__init__", "commands", "cli", "__main__", "lab"),
)
"""Each imports what stands before it."""
NEVER = {
    "models": {"config"},  # nothing that computes sees a settings object
    "losses": {"config"},
    "data": {"config"},
    "predict": {"teachers", "tasks", "engine"},  # what ships knows nothing of training
    "export": {"teachers", "tasks", "engine"},
}
"""What a part may not know although it stands before it, or through others."""


def module_name(file: Path) -> str:
    return ".".join(("mimicdet", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


FILES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def part_of(module: str) -> str:
    """``mimicdet.data.tiles`` -> ``data``."""
    return module.split(".")[1] if "." in module else "__init__"


def imports_in(source: str, modules: Mapping[str, object]) -> set[str]:
    """Modules of the package that a source imports anywhere, inside functions and for type checking too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            assert node.module is not None
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules else node.module for name in names}
    return {name for name in found if name == "mimicdet" or name.startswith("mimicdet.")}


def closure(module: str, graph: Mapping[str, set[str]]) -> set[str]:
    """All modules that importing ``module`` may lead to."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        for name in graph.get(waiting.pop(), set()) - seen:
            seen.add(name)
            waiting.append(name)
    return seen


def breaches(graph: Mapping[str, set[str]]) -> Iterator[str]:
    for module, imported in graph.items():
        part = part_of(module)
        for other in imported:
            if ORDER.index(part_of(other)) > ORDER.index(part):
                yield f"{module} imports {other}, which stands after it"
        reached = closure(module, graph)
        if module in reached:
            yield f"{module} imports itself in a circle"
        for other in reached:
            if part_of(other) in NEVER.get(part, ()) or (part_of(other) == "lab" and part != "lab"):
                yield f"{module} comes to know {other}"


GRAPH = {module: imports_in(file.read_text(), FILES) for module, file in FILES.items()}


def test_every_part_knows_what_stands_before_it_alone() -> None:
    assert {part_of(module) for module in FILES} <= {*ORDER}, "say in ORDER where a new part stands"
    assert sorted(breaches(GRAPH)) == []


@pytest.mark.parametrize("file", FILES.values(), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_file_holds_one_idea(file: Path) -> None:
    assert len(file.read_text().splitlines()) <= 400
    assert file.stem not in ("utils", "util", "helpers", "misc", "common")


@pytest.mark.parametrize(
    ("module", "source", "found"),
    [
        ("mimicdet.models.x", "from mimicdet.config import Settings", "comes to know mimicdet.config"),
        (
            "mimicdet.models.x",
            "def f():\n    import mimicdet.tasks.mimic",
            "imports mimicdet.tasks.mimic, which",
        ),
        ("mimicdet.predict.x", "from mimicdet import tasks, data", "comes to know mimicdet.tasks"),
        (
            "mimicdet.models.x",
            "from mimicdet.families import fcos",
            "imports mimicdet.families.fcos, which",
        ),
        ("mimicdet.engine.x", "from mimicdet.cli import main", "imports mimicdet.cli, which stands after it"),
        ("mimicdet.cli", "from mimicdet.lab.commands.bench import Bench", "comes to know mimicdet.lab.commands.bench"),
        ("mimicdet.ops.x", "import mimicdet.ops.y", "mimicdet.ops.x imports itself in a circle"),
        ("mimicdet.ops.x", "import torch\nfrom mimicdet.errors import UserError", None),
        ("mimicdet.cli", "from mimicdet.engine.train import train", None),
        ("mimicdet.lab.x", "from mimicdet.cli import main", None),
    ],
)
def test_the_rule_itself(module: str, source: str, found: str | None) -> None:
    known = {**FILES, "mimicdet.ops.y": None, "mimicdet.ops.x": None}
    graph = GRAPH | {"mimicdet.ops.y": {"mimicdet.ops.x"}, module: imports_in(source, known)}
    told = [text for text in breaches(graph) if text.startswith(module)]
    assert any(found in text for text in told) if found else not told


def test_the_product_loads_nothing_of_the_laboratory() -> None:
    """Not by a way that the sources do not show either."""
    code = "import sys; from mimicdet import Detector; print([m for m in sys.modules if m.startswith('mimicdet.lab')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
