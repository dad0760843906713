"""What the program depends on: every licence is permissive, every lower bound is one that can be tested."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.minimal import oldest

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"
PERMISSIVE = re.compile(
    r"apache|\bmit\b|mit-cmu|\bbsd\b|\d-clause|0bsd|\bisc\b|hpnd|\bpsf|python software foundation|zlib|cc0|unlicense"
    r"|boost|bsl-1\.0|llvm-exception",
    re.IGNORECASE,
)
WEAK = {"tqdm": "MPL-2.0", "shtab": "MPL-2.0", "certifi": "MPL-2.0"}
"""The Mozilla licence binds who changes these packages' own files, which we do not ship (docs/reliability.md)."""
NVIDIA = ("nvidia-", "cuda-")
"""What PyTorch brings for GPUs is under NVIDIA's own terms; PyTorch for the CPU comes without it."""


def dependencies() -> Iterator[str]:
    """Names of all packages that the program and its extra ``export`` need, directly or not, as far as installed."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    waiting = [Requirement(line) for line in project["dependencies"] + project["optional-dependencies"]["export"]]
    seen = set[tuple[str, frozenset[str]]]()
    while waiting:
        wanted = waiting.pop()
        key = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if key in seen:
            continue
        seen.add(key)
        try:
            needs = metadata.requires(wanted.name) or []
        except metadata.PackageNotFoundError:
            continue  # an extra that is not installed
        yield key[0]
        extras = [{"extra": extra} for extra in wanted.extras or {""}]
        found = [Requirement(line) for line in needs]
        waiting += [one for one in found if one.marker is None or any(map(one.marker.evaluate, extras))]


def licence(name: str) -> str:
    """What a package says of its licence: the expression, else its classifiers, else its text."""
    about = metadata.metadata(name)
    if expression := about.get("License-Expression"):
        return str(expression)
    classifiers = [line for line in about.get_all("Classifier") or [] if line.startswith("License ::")]
    said = " ".join([*classifiers, str(about.get("License") or "")[:200]])
    if said.strip():
        return said
    files = [file for file in metadata.files(name) or [] if "licen" in file.name.lower()]
    return " ".join(Path(str(file.locate())).read_text(errors="replace")[:200] for file in files)


@pytest.mark.parametrize("name", sorted(set(dependencies())))
def test_the_licence_is_permissive(name: str) -> None:
    said = licence(name)
    if name.startswith(NVIDIA):
        assert "torch" in {canonicalize_name(one) for one in dependencies()}
    elif name in WEAK:
        assert WEAK[name] in said
    else:
        assert PERMISSIVE.search(said), f"{name} says {said!r} of its licence"
        assert not re.search(r"\b[AL]?GPL|copyleft|proprietary|non-?commercial", said), f"{name} says {said!r}"


def test_every_dependency_has_an_oldest_version() -> None:
    lines = oldest(PYPROJECT)
    assert any(line.startswith("torch==") for line in lines)
    assert len(lines) == len({line.partition("==")[0] for line in lines})


def test_a_bound_above_is_no_constraint(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text('[project]\ndependencies = ["torch>=2,<3"]\noptional-dependencies = {export = [], large = []}\n')
    with pytest.raises(ValueError, match="lower bound and nothing else"):
        oldest(file)
