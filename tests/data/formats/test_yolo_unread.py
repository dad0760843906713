"""YOLO label files that are there and cannot be read, or are not found, are told of: no image loses its objects."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mimicdet.data.check import check_dataset
from mimicdet.data.faults import FaultKind
from mimicdet.data.splits import load_dataset
from tests.fakes.small_sets import error_of, write_image, write_yolo


def put(file: Path, what: str) -> None:
    file.unlink()
    if what == "link":
        file.symlink_to("nowhere.txt")
    elif what == "loop":
        file.symlink_to(file.name)
    elif what == "folder":
        file.mkdir()
    else:
        os.mkfifo(file)


def second_image(root: Path, folder: str = "labels/train") -> Path:
    """Writes a set of two images, and returns the second one's labels."""
    write_yolo(root)
    write_image(root / "images" / "train" / "b.png")
    labels = root / folder / "b.txt"
    labels.write_text("0 0.5 0.5 0.5 0.5\n")
    return labels


@pytest.mark.parametrize("folder", ["labels/train", "images/train"])
@pytest.mark.parametrize("what", ["link", "loop", "folder", "pipe"])
def test_labels_that_are_no_file_are_an_error(tmp_path: Path, folder: str, what: str) -> None:
    labels = second_image(tmp_path, folder)
    put(labels, what)
    assert check_dataset(tmp_path).errors == {"broken_file": 1}
    assert error_of(load_dataset, tmp_path).startswith(f"{labels}: ")
    if what == "link":
        assert "is a link that leads nowhere" in error_of(load_dataset, tmp_path)


def test_a_folder_of_labels_that_is_a_link_to_nowhere_is_an_error(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    write_image(tmp_path / "images" / "train" / "deep" / "b.png")
    (tmp_path / "labels" / "train" / "deep").symlink_to("nowhere")
    assert error_of(load_dataset, tmp_path).startswith(
        f"{tmp_path / 'labels' / 'train' / 'deep'}: is no folder of labels"
    )


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("labels/train", "b.TXT"),
        ("labels/train", "b.text"),
        ("labels/train", "b.csv"),
        ("labels/train", "b"),
        ("images/train", "b.TXT"),
    ],
)
def test_labels_of_another_ending_are_told(tmp_path: Path, folder: str, name: str) -> None:
    labels = second_image(tmp_path, folder)
    other = labels.rename(labels.with_name(name))
    report = check_dataset(tmp_path)
    assert (report.errors, report.warnings) == ({}, {"no_label_file": 1, "misnamed_labels": 1})
    (fault,) = report.logs["train"].examples[FaultKind.MISNAMED_LABELS]
    assert fault.sentence() == f"{other}: is not read; rename it to b.txt if it holds labels"


def test_labels_of_another_ending_beside_right_ones_are_told(tmp_path: Path) -> None:
    labels = second_image(tmp_path)
    labels.with_suffix(".TXT").write_text("")
    assert check_dataset(tmp_path).warnings == {"misnamed_labels": 1}


def test_labels_of_another_ending_and_without_image_are_an_error(tmp_path: Path) -> None:
    other = second_image(tmp_path).with_name("c.TXT")
    other.write_text("")
    assert error_of(load_dataset, tmp_path).startswith(f"{other}: there is no image of this name")


def test_a_path_that_is_not_there_is_told_once(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    file = tmp_path / "data.yaml"
    file.write_text("path: ../elsewhere\ntrain: images/train\nval: images/train\nnames: [cat, dog]\n")
    report = check_dataset(tmp_path)
    assert (report.errors, report.warnings, report.notes) == ({}, {}, {"no_path": 1})
    (note,) = report.logs["train"].examples[FaultKind.NO_PATH]
    assert note.problem == f"`path` names {tmp_path.parent / 'elsewhere'}, which is no folder, so {tmp_path} is taken"
