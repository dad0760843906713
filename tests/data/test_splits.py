"""load_dataset: pooling, and the first error as one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimicdet.data.splits import available_splits, find_splits, load_dataset
from tests.fakes.small_sets import BCCD, coco_document, error_of, needs_bccd, write_coco, write_voc, write_yolo


def test_pooled_splits_get_new_ids_only_if_they_clash(tmp_path: Path) -> None:
    for split in ("valid", "test"):
        write_coco(tmp_path, split)
    pooled = load_dataset(tmp_path, "val+test")
    assert pooled.split == "valid+test"
    assert [image.id for image in pooled.images] == [1, 2]
    assert [image.file.parent.name for image in pooled.images] == ["valid", "test"]
    document = coco_document(id=8)
    for annotation in document["annotations"]:
        annotation["image_id"] = 8
    write_coco(tmp_path, "test", document)
    assert [image.id for image in load_dataset(tmp_path, "valid+test").images] == [7, 8]


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("cat", "dgo"), "category 'dgo': is not in {train} (did you mean 'dog'?)"),
        (("cat",), "category 'dog' of {train} is missing"),
        (("dog", "cat"), "category 'dog': has id 3, but 6 in {train}"),
    ],
)
def test_pooled_splits_must_have_the_same_categories(tmp_path: Path, names: tuple[str, ...], says: str) -> None:
    train = write_coco(tmp_path)
    val = write_coco(tmp_path, "val", coco_document(names=names))
    message = error_of(load_dataset, tmp_path, "train+val")
    assert str(val) in message
    assert says.format(train=train) in message


def test_results_as_coco_carry_the_original_ids(tmp_path: Path) -> None:
    write_coco(tmp_path)
    document = load_dataset(tmp_path).to_coco()
    assert document["categories"] == [{"id": 3, "name": "cat"}, {"id": 6, "name": "dog"}]
    assert [a["category_id"] for a in document["annotations"]] == [3, 6]
    assert [a["bbox"] for a in document["annotations"]] == [[1, 2, 10, 12], [5, 6, 20, 8]]
    assert document["images"][0]["id"] == 7


def test_home_folder_and_text_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_coco(tmp_path / "set")
    assert len(load_dataset("~/set")) == 1
    monkeypatch.chdir(tmp_path / "set")
    assert len(load_dataset(".")) == len(load_dataset("train.json")) == 1


@needs_bccd
def test_bccd() -> None:
    assert available_splits(BCCD) == ("train", "val")
    train, val = load_dataset(BCCD), load_dataset(BCCD, "valid")
    assert (len(train), len(val)) == (48, 16)
    assert sum(len(image.labels) for image in train.images) == 812
    assert train.class_names == ("RBC", "WBC", "Platelets")


# Telling the format


def test_formats_are_told_apart(tmp_path: Path) -> None:
    for name, write in (("coco", write_coco), ("voc", write_voc), ("yolo", write_yolo)):
        write(tmp_path / name)
        assert find_splits(tmp_path / name).format == name


def test_no_data_set(tmp_path: Path) -> None:
    assert error_of(find_splits, tmp_path / "no").startswith(f"{tmp_path / 'no'}: there is no such file or folder")
    message = error_of(find_splits, tmp_path)
    assert message.startswith(f"{tmp_path}: holds no data set in a known layout; looked for COCO (")
    assert "YOLO (data.yaml" in message
    assert "PASCAL VOC (Annotations/*.xml" in message
    (tmp_path / "a.csv").write_text("x")
    assert "in a known layout" in error_of(find_splits, tmp_path / "a.csv")


def test_two_formats_in_one_folder(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    file = write_coco(tmp_path)
    message = error_of(find_splits, tmp_path)
    assert "annotations in several formats (coco, yolo)" in message
    assert str(file) in message
    assert find_splits(file).format == "coco"
    assert find_splits(tmp_path / "data.yaml").format == "yolo"
