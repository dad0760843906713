"""YOLO: layouts, names, lines of every kind, and the mistakes people make in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mimicdet.data.check import check_dataset
from mimicdet.data.splits import available_splits, load_dataset
from tests.fakes.small_sets import error_of, write_image, write_yolo


def test_fractions_become_pixels_and_ids_indices(tmp_path: Path) -> None:
    write_yolo(tmp_path, "1 0.15 0.25 0.25 0.4\n\n0.0 0.5 0.5 1 1\n")
    dataset = load_dataset(tmp_path)
    assert [(c.id, c.name) for c in dataset.categories] == [(0, "cat"), (1, "dog")]
    (image,) = dataset.images
    assert image.labels.tolist() == [1, 0]
    assert image.boxes.tolist() == [[1, 1.5, 11, 13.5], [0, 0, 40, 30]]
    assert (image.height, image.width) == (30, 40)


def test_polygons_become_their_bounding_box(tmp_path: Path) -> None:
    write_yolo(tmp_path, "0 0.25 0.1 0.5 0.5 0.1 0.2\n0 0 0 0.5 0 0.5 0.5 0 0.5\n1 nan 0.1 0.5 0.5 0.1 0.2\n")
    (image,) = load_dataset(tmp_path, max_faulty_boxes=0.4).images
    assert image.boxes.tolist() == [[4, 3, 20, 15], [0, 0, 20, 15]]
    assert check_dataset(tmp_path).warnings["polygon"] == 3


@pytest.mark.parametrize(
    ("yaml", "image", "labels"),
    [
        ("train: images/train", "images/train/a.png", "labels/train/a.txt"),
        ("train: train/images", "train/images/a.png", "train/labels/a.txt"),
        ("train: ../train/images", "train/images/a.png", "train/labels/a.txt"),
        ("train: images/train/images", "images/train/images/a.png", "images/train/labels/a.txt"),
        ("train: train", "train/a.png", "train/a.txt"),
        ("train: images/train", "images/train/a.png", "images/train/a.txt"),
        ("train: [images/one, images/two]", "images/two/a.png", "labels/two/a.txt"),
        ("train: images", "images/deep/er/a.png", "labels/deep/er/a.txt"),
        ("path: inner\ntrain: images/train", "inner/images/train/a.png", "inner/labels/train/a.txt"),
        ("path: /no/such/folder\ntrain: images/train", "images/train/a.png", "labels/train/a.txt"),
        ("train: list.txt", "images/train/a.png", "labels/train/a.txt"),
        ("train: images/train\nval:\ntest: null", "images/train/a.png", "labels/train/a.txt"),
    ],
)
@pytest.mark.parametrize("name", ["data.yaml", "cells.yml"])
def test_layouts(tmp_path: Path, yaml: str, image: str, labels: str, name: str) -> None:
    root = tmp_path / "images" / "set"  # a folder called images above the data set must not matter
    write_image(root / image)
    (root / "images" / "one").mkdir(parents=True, exist_ok=True)
    (root / labels).parent.mkdir(parents=True, exist_ok=True)
    (root / labels).write_text("0 0.15 0.25 0.25 0.4")
    (root / "list.txt").write_text(f"./{image}\n")
    (root / name).write_text(f"{yaml}\nnames: {{0: cat, 1: dog}}\nnc: 2\n")
    for path in (root, root / name):
        assert available_splits(path) == ("train",)
        (record,) = load_dataset(path).images
        assert record.file == root / image
        assert record.labels.tolist() == [0]


def test_split_names_are_those_of_the_yaml(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    text = (tmp_path / "data.yaml").read_text()
    (tmp_path / "data.yaml").write_text(text + "valid: images/train\ntest: images/train\nroboflow: {project: x}\n")
    assert available_splits(tmp_path) == ("train", "valid", "test")
    assert len(load_dataset(tmp_path, "val")) == 1


def test_images_without_a_label_file_have_no_objects(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    write_image(tmp_path / "images" / "train" / "b.png")
    write_image(tmp_path / "images" / "train" / "c.png")
    (tmp_path / "labels" / "train" / "c.txt").write_text("")
    assert [len(image.labels) for image in load_dataset(tmp_path).images] == [2, 0, 0]
    assert check_dataset(tmp_path).warnings == {"no_label_file": 1}


def test_no_label_file_at_all_is_an_error(tmp_path: Path) -> None:
    write_yolo(tmp_path).unlink()
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{tmp_path / 'data.yaml'}: split train: no image has a label file")


def test_labels_without_an_image(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "labels" / "train" / "classes.txt").write_text("cat\ndog\n")  # labelImg's
    assert len(load_dataset(tmp_path)) == 1
    orphan = tmp_path / "labels" / "train" / "b.txt"
    orphan.write_text("")
    assert error_of(load_dataset, tmp_path).startswith(f"{orphan}: there is no image of this name")


def test_lists_of_images(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: list.txt\nnames: [cat, dog]\n")
    listing = tmp_path / "list.txt"
    for text, says in (
        ("images/train/a.png\nimages/train/b.png\n", "line 2: there is no image"),
        ("images/train/a.png\n./images/train/a.png\n", "line 2: "),
    ):
        listing.write_text(text)
        message = error_of(load_dataset, tmp_path)
        assert message.startswith(f"{listing}: ")
        assert says in message


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("2 0.5 0.5 0.1 0.1", "class 2 is not one of 0..1"),
        ("-1 0.5 0.5 0.1 0.1", "class -1 is not one of 0..1"),
        ("0.5 0.5 0.5 0.1 0.1", "class 0.5 is not one of 0..1"),
        ("nan 0.5 0.5 0.1 0.1", "class nan"),
        ("cat 0.5 0.5 0.1 0.1", "is not a line of numbers"),
        ("0,0.5,0.5,0.1,0.1", "is not a line of numbers"),
        ("0 0.5 0.5 0.1", "has 4 numbers"),
        ("0", "has 1 numbers"),
        ("0 0.5 0.5 0.1 0.1 0.9", "a sixth number is a prediction's score"),
        ("0 0.5 0.5 0.1 0.1 0.9 0.2 0.3", "has 8 numbers"),
    ],
)
def test_faulty_lines_are_named(tmp_path: Path, line: str, says: str) -> None:
    file = write_yolo(tmp_path, f"0 0.5 0.5 0.1 0.1\n{line}\n")
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{file}: line 2: ")
    assert says in message
    file.write_text(line)
    assert error_of(load_dataset, tmp_path).startswith(f"{file}: line 1: ")


def test_pixels_instead_of_fractions(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, "0 20 15 4 4\n")
    message = error_of(load_dataset, tmp_path)
    assert f"1 box_outside; for example line 1 of {file}" in message
    assert "as fractions of the image's sides" in "\n".join(check_dataset(tmp_path).lines())


def test_binary_label_file(tmp_path: Path) -> None:
    file = write_yolo(tmp_path)
    file.write_bytes(b"\xff\xfe0")
    assert error_of(load_dataset, tmp_path).startswith(f"{file}: is not UTF-8 text")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("names: [cat\ntrain: x", "is not valid YAML"),
        ("names: " + "[" * 5_000, "YAML"),
        ("names: [cat]\ntrain: nowhere", "which is no folder and no .txt list"),
        ("names: [cat]\ntrain: 3", "`train` must be a folder"),
        ("names: []\ntrain: images/train", "`names` must list at least one class"),
        ("names: cat\ntrain: images/train", "`names` must list at least one class"),
        ("names: [cat, cat]\ntrain: images/train", "two classes named 'cat'"),
        ("names: [cat, yes]\ntrain: images/train", "`names` entry 1 is True, not text"),
        ("names: [cat, {}]\ntrain: images/train", "`names` entry 1 is {}, not text"),
        ("names: {0: cat, 2: dog}\ntrain: images/train", "0, 1, 2, ... without gaps"),
        ("names: {0: cat, x: dog}\ntrain: images/train", "0, 1, 2, ... without gaps"),
        ("names: [cat, dog]\nnc: 3\ntrain: images/train", "`nc` is 3, but `names` lists 2"),
        ("names: [cat, dog]\ntrain: labels", "split train has no images"),
    ],
)
def test_broken_yaml(tmp_path: Path, text: str, says: str) -> None:
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{tmp_path / 'data.yaml'}: ")
    assert says in message


def test_yaml_given_as_a_file_must_describe_a_data_set(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    for text in ("names: [cat]", "train: images", "- 1", ""):
        file.write_text(text)
        assert "does not describe a YOLO data set" in error_of(load_dataset, file)


def test_several_yaml_files(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "settings.yaml").write_text("model: {backbone: x}\n")
    text = (tmp_path / "data.yaml").read_text()
    (tmp_path / "other.yaml").write_text(text)
    assert len(load_dataset(tmp_path)) == 1  # data.yaml is the usual name
    (tmp_path / "data.yaml").rename(tmp_path / "again.yaml")
    assert "several YAML files describe a data set" in error_of(load_dataset, tmp_path)


def test_labels_above_the_data_set_are_not_looked_at(tmp_path: Path) -> None:
    root = tmp_path / "images" / "set"
    write_image(root / "train" / "a.png")
    (root / "train" / "a.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (root / "data.yaml").write_text("train: train\nnames: [cat, dog]\n")
    decoy = tmp_path / "labels" / "set" / "train" / "a.txt"
    decoy.parent.mkdir(parents=True)
    decoy.write_text("1 0.5 0.5 0.1 0.1\n")
    assert load_dataset(root).images[0].labels.tolist() == [0]


POSE = "0 0.7 0.5 0.2 0.2 0.61 0.41 0.79 0.41 0.79 0.59 0.61 0.59\n"


def _declare(root: Path, text: str) -> None:
    file = root / "data.yaml"
    file.write_text(f"{file.read_text()}{text}\n")


def test_keypoints_that_the_yaml_announces_are_left_out_and_counted(tmp_path: Path) -> None:
    write_yolo(tmp_path, POSE + "1 0.5 0.5 0.2 0.4\n")
    _declare(tmp_path, "kpt_shape: [4, 2]")
    (image,) = load_dataset(tmp_path).images
    assert image.boxes.round(6).tolist() == [[24, 12, 32, 18], [16, 9, 24, 21]]
    report = check_dataset(tmp_path)
    assert report.ok
    assert report.warnings == {"keypoints": 1}


def test_keypoints_with_visibility(tmp_path: Path) -> None:
    write_yolo(tmp_path, "0 0.5 0.5 0.5 0.5 0 0 0 0.9 0.1 2\n")
    _declare(tmp_path, "kpt_shape: [2, 3]")
    assert load_dataset(tmp_path).images[0].boxes.tolist() == [[10, 7.5, 30, 22.5]]


@pytest.mark.parametrize("line", ["0 0.1 0.1 0.2 0.1 0.2 0.2", "0 0.7 0.5 0.2 0.2 0.6 0.4", "0 0.7 0.5 0.2", "0"])
def test_lines_of_another_length_than_the_keypoints_have_are_refused(tmp_path: Path, line: str) -> None:
    file = write_yolo(tmp_path, POSE + line)
    _declare(tmp_path, "kpt_shape: [4, 2]")
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{file}: line 2: has ")
    assert "with keypoints by `kpt_shape` 13" in message


@pytest.mark.parametrize(
    "shape", ["17", "[17]", "[0, 2]", "[4, 1]", "[4, 2.0]", "[true, 2]", "[a, b]", "[4, 2, 1]", "{}"]
)
def test_keypoints_of_no_shape(tmp_path: Path, shape: str) -> None:
    write_yolo(tmp_path)
    _declare(tmp_path, f"kpt_shape: {shape}")
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{tmp_path / 'data.yaml'}: `kpt_shape` must be ")


@pytest.mark.parametrize(
    ("lines", "count"),
    [
        (POSE * 2, 2),  # read as keypoints, every point is in its box
        ("0 0.5 0.5 0.4 0.4 0.4 0.4 2 0 0 0\n" * 3, 3),  # points with visibility, of which one is not there
        ("0 0.1 0.1 0.8 0.1 0.8 0.8 0.1 0.8\n", 0),  # a box 0.8 wide around 0.1 would leave the image
        (POSE + "0 0.4 0.4 0.4 0.4 0.4 0.4 0.5 0.5\n", 0),  # keypoints are as many in each line
        (POSE * 2 + "0 0.1 0.1 0.8 0.1 0.8 0.8 0.1 0.8 0.1 0.5 0.1 0.2\n", 0),  # a third is a polygon for sure
    ],
)
def test_polygons_that_may_be_keypoints_are_told(tmp_path: Path, lines: str, count: int) -> None:
    write_yolo(tmp_path, lines)
    assert check_dataset(tmp_path, max_faulty_boxes=1).warnings.get("maybe_keypoints", 0) == count


def test_images_that_share_a_label_file_are_refused(tmp_path: Path) -> None:
    labels = write_yolo(tmp_path)
    write_image(tmp_path / "images" / "train" / "a.jpg")
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{labels}: it holds the labels of both ")
    assert "a.jpg and " in message
    labels.rename(labels.with_name("b.txt"))  # none has labels, so none has the other's
    write_image(tmp_path / "images" / "train" / "b.png")
    assert [len(image.labels) for image in load_dataset(tmp_path).images] == [0, 0, 2]


@pytest.mark.parametrize("number", ["1_0", "0.2_5", "１", "०.5", "0x1", "١", "1,5", "0.5f"])
@pytest.mark.parametrize("place", range(5))
def test_what_only_python_takes_for_a_number_is_refused(tmp_path: Path, number: str, place: int) -> None:
    words = ["0", "0.5", "0.5", "0.1", "0.1"]
    file = write_yolo(tmp_path, " ".join([*words[:place], number, *words[place + 1 :]]))
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{file}: line 1: ")
    assert "is not a line of numbers" in message


def test_images_and_labels_behind_links(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "set"
    write_yolo(root)
    write_image(store / "pictures" / "deep" / "a.png")
    (store / "texts" / "deep").mkdir(parents=True)
    (store / "texts" / "deep" / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (root / "images" / "train" / "more").symlink_to(store / "pictures")
    (root / "labels" / "train" / "more").symlink_to(store / "texts")
    (root / "images" / "train" / "more" / "loop").symlink_to("..")
    (root / "images" / "train" / "up").symlink_to("..")
    report = check_dataset(root)
    assert report.ok
    assert report.warnings == {}
    images = report.datasets["train"].images
    assert [(str(image.file.relative_to(root)), image.labels.tolist()) for image in images] == [
        ("images/train/a.png", [0, 1]),
        ("images/train/more/deep/a.png", [1]),
    ]


def test_labels_in_a_folder_that_no_image_is_in(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    orphan = tmp_path / "labels" / "train" / "deep" / "b.txt"
    orphan.parent.mkdir()
    orphan.write_text("")
    assert error_of(load_dataset, tmp_path).startswith(f"{orphan}: there is no image of this name")


def test_labels_above_the_images(tmp_path: Path) -> None:
    labels = write_yolo(tmp_path)
    write_image(tmp_path / "images" / "train" / "deep" / "b.png")
    (tmp_path / "images" / "train" / "a.png").unlink()
    assert error_of(load_dataset, tmp_path).startswith(f"{labels}: there is no image of this name")


def test_two_folders_of_images_may_have_one_folder_of_labels(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    for folder, name in (("left", "b"), ("right", "c")):
        write_image(tmp_path / "images" / "train" / folder / f"{name}.png")
        (tmp_path / "labels" / "train" / folder).symlink_to(tmp_path / "both")
    (tmp_path / "both").mkdir()
    for name in "bc":
        (tmp_path / "both" / f"{name}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert [len(image.labels) for image in load_dataset(tmp_path).images] == [2, 1, 1]


def test_every_suffix_of_the_formats_that_are_read(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    for name in ("b.jfif", "c.MPO", "d.jpe"):
        write_image(tmp_path / "images" / "train" / name, format="jpeg")
        (tmp_path / "labels" / "train" / name).with_suffix(".txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (tmp_path / "images" / "train" / "e.heic").write_bytes(b"?")
    report = check_dataset(tmp_path)
    assert report.ok
    assert report.warnings == {"left_out": 1}
    assert len(report.datasets["train"]) == 4


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"train: {'a' * 5_000}\nnames: [cat]", "which is no folder"),
        (f"path: {'a' * 5_000}\ntrain: nowhere\nnames: [cat]", "which is no folder"),
        ('train: "a\\0b"\nnames: [cat]', "which is no folder"),
        ("path: [a]\ntrain: images/train\nnames: [cat]", "`path` must be a folder"),
        ("nc: true\ntrain: images/train\nnames: [cat]", "`nc` is True"),
        ("nc: &a [x, x]\ntrain: images/train\nnames: [cat, dog]", "`nc` is ['x', 'x']"),
        ("train: images/train\ntrain: images/val\nnames: [cat]", "key 'train' is given twice"),
        ('train: "\\ud800"\nnames: [cat]', "half of a character"),
    ],
)
def test_odd_yaml(tmp_path: Path, text: str, says: str) -> None:
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text(text)
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{tmp_path / 'data.yaml'}: ")
    assert says in message


def test_lists_may_name_what_no_file_can_be_called(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    (tmp_path / "data.yaml").write_text("train: list.txt\nnames: [cat, dog]\n")
    (tmp_path / "list.txt").write_text(f"images/train/a.png\n{'a' * 5_000}.png\n")
    assert error_of(load_dataset, tmp_path).startswith(f"{tmp_path / 'list.txt'}: line 2: there is no image")


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_an_image_under_two_names_is_told(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    write_yolo(tmp_path)
    link(tmp_path / "images" / "train" / "a.png", tmp_path / "images" / "train" / "b.png")
    (tmp_path / "labels" / "train" / "b.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    report = check_dataset(tmp_path)
    assert report.warnings["shared_image"] == 1
    assert "b.png: " in (told := "\n".join(report.lines()))
    assert "a.png is the same file; give all its objects to one of them" in told


def test_a_file_of_gigabytes_is_no_label_file(tmp_path: Path) -> None:
    """It is not even read: it takes as much memory, or many times that."""
    write_yolo(tmp_path)
    os.truncate(tmp_path / "labels" / "train" / "a.txt", 3 * 2**30)  # takes no room on the disk
    assert error_of(load_dataset, tmp_path).endswith(
        "a.txt: is too large to describe an image (3,072 MB); see whether it is the right file"
    )
