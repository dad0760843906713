"""Data sets made by hand: whatever is wrong with one is a sentence that names the image."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mimicdet import Detector, evaluate, train
from mimicdet.data.cut import cut_datasets
from mimicdet.data.dataset import Category, DetectionDataset, ImageRecord
from mimicdet.data.sound import require_sound
from mimicdet.errors import UserError
from mimicdet.predict import predict_files
from tests.fakes.toy import toy_settings

RECORD = ImageRecord(
    id=7,
    file=Path("b.png"),
    height=30,
    width=40,
    boxes=np.array([[1.0, 2, 11, 12], [0, 0, 40, 30], [5, 5, 9, 9]]),
    labels=np.array([0, 1, 1]),
    crowd=np.array([False, True, False]),
    areas=np.array([100.0, 1200, 0]),
)
EMPTY = replace(
    RECORD,
    id=3,
    file=Path("a.png"),
    boxes=np.zeros((0, 4)),
    labels=np.zeros(0, np.int64),
    crowd=np.zeros(0, bool),
    areas=np.zeros(0),
)
SOUND = DetectionDataset(Path("set"), "val", "coco", (Category(1, "red"), Category(5, "green")), (EMPTY, RECORD))


def with_box(*box: float) -> dict[str, Any]:
    boxes = RECORD.boxes.copy()
    boxes[1] = box
    return {"boxes": boxes}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"labels": np.array([0])}, "its labels have the shape (1,), which must be (3,)"),
        ({"labels": np.array([0.5, 0, 0])}, "its labels must be whole numbers, not float64"),
        ({"labels": [0, 1, 1]}, "its labels must be a numpy array, not [0, 1, 1]"),
        ({"labels": np.array([0, -1, 1])}, "label -1 is none of its 2 classes"),
        ({"labels": np.array([0, 1, 2])}, "label 2 is none of its 2 classes"),
        ({"labels": np.array([True, False, True])}, "its labels must be whole numbers, not bool"),
        ({"areas": None}, "its areas must be a numpy array, not None"),
        ({"areas": np.array([1.0, np.nan, 1])}, "the area nan must be a finite number"),
        ({"areas": np.array([1.0, -1, 1])}, "the area -1.0 must be"),
        ({"crowd": np.array([0, 1, 0])}, "its crowd must be True or False, not int64"),
        ({"boxes": [[1, 2, 3, 4]]}, "its boxes must be a numpy array"),
        ({"boxes": np.zeros((3, 5))}, "its boxes have the shape (3, 5), which must be (3, 4)"),
        ({"boxes": np.array(1.0)}, "its boxes have the shape ()"),
        ({"boxes": np.zeros((3, 4), complex)}, "its boxes must be numbers, not complex128"),
        (with_box(1, 2, np.nan, 9), "has values that are no finite numbers"),
        (with_box(1, 2, np.inf, 9), "has values that are no finite numbers"),
        (with_box(9, 2, 3, 9), "the box [9.0, 2.0, 3.0, 9.0] must be x1 y1 x2 y2"),
        (with_box(1, 2, 41, 9), "reaches out of the image"),
        (with_box(-1, 2, 4, 9), "reaches out of the image"),
        ({"id": "a"}, "its id must be a whole number of 64 bits, not 'a'"),
        ({"id": 1.5}, "its id must be a whole number"),
        ({"id": 2**70}, "its id must be a whole number of 64 bits, not 1180591620717411303424"),
        ({"id": 3}, "its id 3 is another image's too"),
        ({"height": 0}, "its height must be a number of pixels from 1 up, not 0"),
        ({"width": "9"}, "its width must be a number of pixels from 1 up, not '9'"),
        ({"file": "b.png"}, "image number 1: its file must be a Path, not 'b.png'"),
        ({"file": None}, "image number 1: its file must be a Path, not None"),
    ],
)
def test_a_wrong_image_is_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as told:
        require_sound(replace(SOUND, images=(EMPTY, replace(RECORD, **wrong))))
    assert message in str(told.value)
    assert "b.png: " in str(told.value) or "image number 1: " in str(told.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"images": (EMPTY, 5)}, "image number 1 of the data set must be an ImageRecord, not 5"),
        ({"images": None}, "must be a tuple of ImageRecord, not None"),
        ({"categories": ("red", "green")}, "must be an object of the class Category"),
        ({"categories": (Category(1, "red"), Category(1, "green"))}, "two categories of the data set are 1"),
        ({"categories": (Category(1, "red"), Category(2, "red"))}, "two categories of the data set are 'red'"),
        ({"categories": (Category(2.5, "red"),)}, "its id a whole number"),  # type: ignore[arg-type]
        ({"categories": ()}, "label 0 is none of its 0 classes"),
    ],
)
def test_a_wrong_data_set_is_told(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as told:
        require_sound(replace(SOUND, **wrong))
    assert message in str(told.value)


def test_what_is_sound_passes() -> None:
    require_sound(SOUND)
    require_sound(replace(SOUND, images=()))
    require_sound(replace(SOUND, images=[EMPTY]))  # type: ignore[arg-type]
    integers = {"boxes": RECORD.boxes.astype(np.int32), "labels": RECORD.labels.astype(np.uint8), "id": np.int64(9)}
    require_sound(replace(SOUND, images=(replace(RECORD, **integers),)))


def test_many_images_take_no_time() -> None:
    images = tuple(replace(RECORD, id=number) for number in range(20_000))
    began = time.process_time()
    require_sound(replace(SOUND, images=images))
    assert time.process_time() - began < 2  # 0.2 on a quiet machine; a comparison of all with all would take minutes


@pytest.mark.parametrize(
    "call",
    [
        lambda wrong, out: train(settings=toy_settings(), train_data=wrong, out=out),
        lambda wrong, out: train(settings=toy_settings(), train_data=SOUND, val_data=wrong, out=out),
        lambda wrong, out: cut_datasets({"train": wrong}, out, tile=40),
        lambda wrong, _: predict_files(object.__new__(Detector), [], dataset=wrong),
        lambda wrong, _: evaluate(object.__new__(Detector), wrong),
    ],
)
def test_every_door_is_guarded(call: Callable[[DetectionDataset, Path], Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"b\.png: label -1 is none"):
        call(replace(SOUND, images=(replace(RECORD, labels=np.array([0, -1, 1])),)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
