"""YOLO: layouts, names, lines of every kind, and the mistakes people make in them."""

from __future__ import annotations

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
