"""Comparing categories, with the nearest name as the way out."""

from __future__ import annotations

from pathlib import Path

from mimicdet.data.categories import compare_categories, nearest
from mimicdet.data.dataset import Category
from mimicdet.data.faults import FaultLog

CELLS = (Category(1, "RBC"), Category(2, "WBC"), Category(3, "Platelets"))


def sentences(other: tuple[Category, ...]) -> list[str]:
    log = FaultLog()
    compare_categories(CELLS, other, Path("train.json"), Path("val.json"), log)
    return [fault.sentence() for faults in log.examples.values() for fault in faults]


def test_equal_lists_in_any_order() -> None:
    assert sentences(CELLS[::-1]) == []


def test_a_misspelt_name_gets_the_nearest_unmatched_one() -> None:
    found = sentences((*CELLS[:2], Category(3, "platlets")))
    assert found == [
        "val.json: category 'platlets': is not in train.json (did you mean 'Platelets'?); use the same names in both",
        "val.json: category 'Platelets' of train.json is missing; add it (objects it needs none)",
    ]


def test_other_ids() -> None:
    found = sentences((Category(2, "RBC"), Category(1, "WBC"), CELLS[2]))
    assert found[0] == "val.json: category 'RBC': has id 2, but 1 in train.json; give it the same id in both"
    assert len(found) == 2


def test_nothing_near() -> None:
    assert nearest("zebra", ["RBC"]) == ""
    assert nearest("rbc", ["RBC", "WBC"]) == " (did you mean 'RBC'?)"
