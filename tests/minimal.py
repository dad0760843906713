"""Prints the oldest versions that pyproject.toml allows, as constraints for pip: see ``make test-minimal``."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

EXTRAS = ("export", "large")
"""Extras whose packages the program itself needs; those of development may be as new as they like."""


def oldest(pyproject: Path) -> list[str]:
    """Returns ``name==version`` for each dependency, by its lower bound; ValueError where one has none."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in EXTRAS:
        lines += project["optional-dependencies"][extra]
    constraints = []
    for line in lines:
        wanted = Requirement(line)
        bounds = {part.operator: part.version for part in wanted.specifier}
        if set(bounds) != {">="}:
            raise ValueError(f"{line} should have a lower bound and nothing else")
        constraints.append(f"{wanted.name}=={bounds['>=']}")
    return constraints


if __name__ == "__main__":
    sys.stdout.write("\n".join(oldest(Path(__file__).parents[1] / "pyproject.toml")) + "\n")
