"""Comparing category lists: two splits of a data set, or a data set and a model."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from mimicdet.data.dataset import Category
from mimicdet.data.faults import FaultKind, FaultLog


def compare_categories(
    expected: Sequence[Category], actual: Sequence[Category], expected_from: Path, actual_from: Path, log: FaultLog
) -> None:
    """Logs every category that only one of the lists has (with the nearest name) or that differs in its id."""
    ids = {category.name: category.id for category in expected}
    other_ids = {category.name: category.id for category in actual}
    missing = [name for name in ids if name not in other_ids]
    kind = FaultKind.CATEGORIES_DIFFER
    for name, number in other_ids.items():
        item = f"category {name!r}"
        if name not in ids:
            near = nearest(name, missing) or nearest(name, list(ids))
            log.add(kind, actual_from, item, f"is not in {expected_from}{near}; use the same names in both")
        elif number != ids[name]:
            log.add(
                kind, actual_from, item,
                f"has id {number}, but {ids[name]} in {expected_from}; give it the same id in both",
            )  # fmt: skip
    for name in missing:
        log.add(
            kind, actual_from, "", f"category {name!r} of {expected_from} is missing; add it (objects it needs none)"
        )


def nearest(name: str, names: Sequence[str]) -> str:
    """ ", did you mean 'fish'?" for the name most like ``name``, or nothing if none is."""
    folded = {other.casefold(): other for other in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f" (did you mean {folded[near[0]]!r}?)" if near else ""
