"""Puts the longest tests first, so that no worker of ``pytest -n`` is still busy when the others are done."""

from __future__ import annotations

import pytest

LONGEST = (
    "tests/test_learning.py",
    "tests/lab/commands/test_study.py",
    "tests/docs/test_api.py",
    "tests/benchmarks/test_scripts.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts the tests; those of a file stay together and in order."""
    items.sort(key=lambda item: not item.nodeid.startswith(LONGEST))
