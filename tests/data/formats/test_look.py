"""Telling the format by looking."""

from __future__ import annotations

from pathlib import Path

from mimicdet.data.splits import find_splits
from tests.data.small_sets import error_of, write_coco, write_voc, write_yolo


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
