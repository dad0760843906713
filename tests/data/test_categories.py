"""Comparing categories, with the nearest name as the way out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mimicdet.data.dataset import (
    Category,
    DetectionDataset,
    ImageRecord,
    compare_categories,
    did_you_mean,
    match_classes,
)
from mimicdet.data.faults import FaultLog
from mimicdet.data.raw import clean_name
from mimicdet.errors import UserError

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
    assert did_you_mean("zebra", ["RBC"]) == ""
    assert did_you_mean("rbc", ["RBC", "WBC"]) == " (did you mean 'RBC'?)"


# Matching by name


def dataset(categories: dict[str, int], *labels: str) -> DetectionDataset:
    names = list(categories)
    n = len(labels)
    record = ImageRecord(
        id=7,
        file=Path("a.png"),
        height=9,
        width=9,
        boxes=np.tile([0.0, 0, 1, 1], (n, 1)),
        labels=np.array([names.index(label) for label in labels], dtype=np.int64),
        crowd=np.zeros(n, dtype=bool),
        areas=np.ones(n),
    )
    return DetectionDataset(
        root=Path("cells"),
        split="val",
        format="coco",
        images=(record,),
        categories=tuple(Category(id=i, name=name) for name, i in categories.items()),
    )


def model_classes(**ids: int) -> list[Category]:
    return [Category(id=i, name=name) for name, i in ids.items()]


def test_objects_keep_their_class_and_the_data_sets_own_id() -> None:
    given = dataset({"cat": 5, "dog": 2, "eel": 9}, "eel", "cat", "dog", "cat")
    matched = match_classes(given, model_classes(dog=0, eel=1, cat=2))
    assert matched.class_names == ("dog", "eel", "cat")
    assert [c.id for c in matched.categories] == [2, 9, 5]
    assert matched.images[0].labels.tolist() == [1, 2, 0, 2]
    assert [a["category_id"] for a in matched.to_coco()["annotations"]] == [9, 5, 2, 5]
    assert matched.to_coco()["annotations"] == given.to_coco()["annotations"]


def test_a_class_without_objects_may_be_missing() -> None:
    matched = match_classes(dataset({"cat": 5}, "cat"), model_classes(dog=5, cat=6))
    assert matched.class_names == ("dog", "cat")
    assert [c.id for c in matched.categories] == [6, 5]
    assert matched.images[0].labels.tolist() == [1]


def test_a_class_that_the_model_does_not_know_is_an_error() -> None:
    with pytest.raises(UserError, match=r"cells: the model does not know the class 'cta' \(did you mean 'cat'\?\)"):
        match_classes(dataset({"cta": 1}), model_classes(cat=1))


def test_no_images() -> None:
    given = dataset({"cat": 1})
    empty = DetectionDataset(root=given.root, split="val", format="coco", categories=given.categories, images=())
    assert len(match_classes(empty, model_classes(cat=3))) == 0


def test_added_classes_get_free_ids_of_64_bits() -> None:
    for highest, first in ((5, 6), (2**63 - 1, 2), (2**63 - 2, 2)):
        own = (Category(1, "a"), Category(highest, "b"))
        data = DetectionDataset(Path("set"), "val", "coco", own, ())
        matched = match_classes(data, [Category(n, name) for n, name in enumerate("cabd")])
        assert [c.id for c in matched.categories] == [first, 1, highest, first + 1]


def test_names_of_any_script_are_names() -> None:
    """Those with joiners too; a joiner alone shows nothing."""
    for name in ("\u6c7d\u8f66", "\u0645\u06cc\u200c\u062e", "\u0915\u094d\u200d\u0937"):
        assert clean_name(f" {name} ", Path("a.json"), "category 1") == name
    for name in ("\u200d", "a\x1b[2J", "\u202ea"):
        with pytest.raises(UserError, match="not printable"):
            clean_name(name, Path("a.json"), "category 1")
