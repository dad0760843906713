"""JSON files that can be annotations are told from results and reports, which stand in nobody's way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mimicdet.data.check import check_dataset
from mimicdet.data.json_kind import is_input, may_be_annotations
from mimicdet.data.splits import find_splits
from mimicdet.errors import UserError
from tests.fakes.small_sets import coco_document, error_of, write_coco, write_image, write_voc, write_yolo

RESULTS: list[Any] = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (json.dumps(coco_document()), True),
        (json.dumps(coco_document(), indent=1), True),
        ("\ufeff" + json.dumps(coco_document()), True),
        ('{"images": []}', True),
        (json.dumps(coco_document())[:-20], True),  # damaged: to be told, not left out
        ('{"image', True),
        ("", True),
        ("cat\n", True),
        ("[cat, dog]", True),  # YAML
        ("0 0.5 0.5 0.5 0.5\n", True),
        ("{}", False),
        (" [ ]\n", False),
        (json.dumps(RESULTS), False),
        (json.dumps(RESULTS)[:-1], True),
        ('{"images": 3, "annotations": {"a": 1}}', False),
        (json.dumps({"problem": '"images": ['}), False),
    ],
)
def test_what_may_be_annotations(tmp_path: Path, text: str, answer: bool) -> None:
    file = tmp_path / "a.json"
    file.write_text(text, encoding="utf-8")
    assert may_be_annotations(file) == answer
    assert is_input(file) == answer
    assert is_input(file.rename(tmp_path / "a.yaml"))  # which JSON is, too


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert may_be_annotations(tmp_path / "a.json")


def single(root: Path) -> None:
    write_coco(root).rename(root / "mydata.json")


@pytest.mark.parametrize("write", [single, write_coco, write_voc, write_yolo])
@pytest.mark.parametrize("place", ["report.json", "train/report.json", "annotations/report.json"])
def test_reports_and_results_are_no_annotations(tmp_path: Path, write: Any, place: str) -> None:
    write(tmp_path)
    before = find_splits(tmp_path)
    report = tmp_path / place
    report.parent.mkdir(exist_ok=True)
    for content in (check_dataset(tmp_path).to_json(), RESULTS, []):
        report.write_text(json.dumps(content))
        assert find_splits(tmp_path) == before
        assert check_dataset(tmp_path).warnings == {}


def test_json_that_is_named_like_a_split_is_told(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "val.json").write_text(json.dumps(RESULTS))
    report = check_dataset(tmp_path)
    assert (report.ok, report.warnings, list(report.datasets)) == (True, {"other_json": 1}, ["train"])
    (tmp_path / "val.json").write_text('{"images": [')  # damaged
    assert check_dataset(tmp_path).errors == {"broken_file": 1}


def test_where_nothing_else_is_the_file_is_told_of(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "a.png")
    for name in ("train.json", "mine.json"):
        file = tmp_path / name
        file.write_text(json.dumps(RESULTS))
        (fault,) = check_dataset(tmp_path).logs["train"].examples.popitem()[1]
        assert (fault.file, "holds a list" in fault.problem) == (file, True)
        file.unlink()
    with pytest.raises(UserError, match="known layout"):
        find_splits(tmp_path)


def test_splits_that_the_yaml_file_leaves_empty(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    file = tmp_path / "data.yaml"
    file.write_text("train:\nnames: [cat, dog]\n")
    assert error_of(find_splits, tmp_path).startswith(f"{file}: does not describe a YOLO data set; it needs")
    assert "`train` is empty" in error_of(find_splits, tmp_path)
    file.write_text("train:\nval: images/train\nnames: [cat, dog]\n")
    assert error_of(check_dataset, tmp_path, splits=["train"]).startswith(f"{file}: there is no split 'train'")
