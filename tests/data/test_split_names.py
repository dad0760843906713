"""Split names: told from file names, asked for by any usual name."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimicdet.data.split_names import disjoint_splits, name_splits, resolve_split, split_word, standard_name
from tests.fakes.small_sets import error_of

ROOT = Path("/data")


@pytest.mark.parametrize(
    ("stem", "word"),
    [
        ("train", ("train", "")),
        ("Valid", ("valid", "")),
        ("instances_val2017", ("val", "2017")),
        ("instances_train", ("train", "")),
        ("test_annotations.coco", ("test", "")),
        ("annotations-train", ("train", "")),
        ("trainval", ("trainval", "")),
        ("aeroplane_train", None),
        ("captions_train2017", None),
        ("trainer", None),
        ("_annotations.coco", None),
        ("", None),
    ],
)
def test_names_that_speak_of_a_split(stem: str, word: tuple[str, str] | None) -> None:
    assert split_word(stem) == word


def test_splits_are_named_and_ordered() -> None:
    found = [("test", 1), ("notes", 2), ("instances_val2017", 3), ("instances_train2017", 4)]
    assert list(name_splits(found).items()) == [("train", 4), ("val", 3), ("test", 1)]


def test_years_tell_splits_apart() -> None:
    found = [("instances_train2014", 1), ("instances_train2017", 2), ("train", 3)]
    assert name_splits(found) == {"train": 3, "train2014": 1, "train2017": 2}
    assert "several files speak of the split train" in error_of(name_splits, [("train", 1), ("instances_train", 2)])


def test_usual_aliases() -> None:
    assert resolve_split("val", ["train", "valid"], ROOT) == ("valid",)
    assert resolve_split("validation", ["train", "val", "valid"], ROOT) == ("val",)
    assert resolve_split("valid", ["val", "valid"], ROOT) == ("valid",)
    assert resolve_split("training+testing", ["train", "test"], ROOT) == ("train", "test")


def test_splits_that_are_not_there() -> None:
    assert error_of(resolve_split, "trian", ["train", "val"], ROOT) == (
        "/data: there is no split 'trian'; did you mean 'train'?"
    )
    assert error_of(resolve_split, "x", ["train", "val"], ROOT) == "/data: there is no split 'x'; it has train, val"
    assert "there is no split ''" in error_of(resolve_split, "train+", ["train"], ROOT)
    assert "named twice" in error_of(resolve_split, "val+valid", ["val"], ROOT)


def test_trainval_repeats_train_and_val() -> None:
    assert disjoint_splits(["train", "valid", "trainval", "test"]) == ("train", "valid", "test")
    assert disjoint_splits(["trainval", "test"]) == ("trainval", "test")


def test_standard_names() -> None:
    assert [standard_name(n) for n in ("valid", "training", "test", "train2014", "trainval", "default")] == [
        "val",
        "train",
        "test",
        "train2014",
        "trainval",
        None,
    ]
