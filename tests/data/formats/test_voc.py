"""PASCAL VOC: layouts, classes, coordinates from 0 or 1, and hostile or broken XML."""

from __future__ import annotations

from pathlib import Path

import pytest

from mimicdet.data.check import check_dataset
from mimicdet.data.splits import available_splits, load_dataset
from tests.fakes.small_sets import error_of, voc_xml, write_image, write_voc


def test_boxes_classes_and_size(tmp_path: Path) -> None:
    write_voc(tmp_path, voc_xml([("dog", (1, 2, 11, 14)), ("cat", (5.5, 6, 25, 14.25)), ("dog", (0, 0, 3, 3))]))
    dataset = load_dataset(tmp_path)
    assert [(c.id, c.name) for c in dataset.categories] == [(1, "cat"), (2, "dog")]
    (image,) = dataset.images
    assert image.labels.tolist() == [1, 0, 1]
    assert image.boxes.tolist() == [[1, 2, 11, 14], [5.5, 6, 25, 14.25], [0, 0, 3, 3]]
    assert image.areas.tolist() == [120, 19.5 * 8.25, 9]
    assert (image.height, image.width) == (30, 40)


def test_one_based_indices_become_edges(tmp_path: Path) -> None:
    write_voc(tmp_path, voc_xml([("cat", (1, 1, 40, 30)), ("cat", (3, 3, 3, 3))]))
    (image,) = load_dataset(tmp_path, voc_one_based=True).images
    assert image.boxes.tolist() == [[0, 0, 40, 30], [2, 2, 3, 3]]  # the whole image; the third pixel


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_missing_size_is_taken_from_the_image(tmp_path: Path, size: tuple[int, int] | None) -> None:
    write_voc(tmp_path, voc_xml(size=size))
    assert load_dataset(tmp_path).images[0].width == 40


@pytest.mark.parametrize(("size", "says"), [((30, 40), "EXIF"), ((39, 30), "recorded as 39 x 30")])
def test_wrong_size(tmp_path: Path, size: tuple[int, int], says: str) -> None:
    file = write_voc(tmp_path, voc_xml(size=size))
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{file}: ")
    assert says in message


def test_difficult_objects_become_crowd(tmp_path: Path) -> None:
    write_voc(tmp_path, voc_xml([("cat", (1, 2, 11, 14))], extra="<difficult>1</difficult>"))
    assert load_dataset(tmp_path).images[0].crowd.tolist() == [True]
    assert check_dataset(tmp_path).warnings["difficult"] == 1


def test_parts_of_an_object_are_not_objects(tmp_path: Path) -> None:
    part = "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
    write_voc(tmp_path, voc_xml([("cat", (1, 2, 11, 14))], extra=part))
    dataset = load_dataset(tmp_path)
    assert dataset.class_names == ("cat",)
    assert dataset.images[0].boxes.tolist() == [[1, 2, 11, 14]]


def test_image_sets(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    for stem in ("b", "a", "c d"):
        write_image(tmp_path / "JPEGImages" / f"{stem}.jpg")
        (tmp_path / "Annotations" / f"{stem}.xml").write_text(voc_xml(filename=f"{stem}.jpg"))
    for name, text in {
        "train": "b\na\n",
        "val": "c d\n\n",
        "trainval": "b\na\nc d",
        "cat_train": "b 1\na -1\n",
    }.items():
        (tmp_path / "ImageSets" / "Main" / f"{name}.txt").write_text(text)
    assert available_splits(tmp_path) == ("train", "val", "trainval")
    assert [image.file.stem for image in load_dataset(tmp_path).images] == ["b", "a"]
    assert [image.file.stem for image in load_dataset(tmp_path, "val").images] == ["c d"]
    assert tuple(check_dataset(tmp_path).datasets) == ("train", "val")
    for text, item, says in (("b\nz\n", "line 2", "there is no"), ("b\nb\n", "line 2", "b is listed twice")):
        file = tmp_path / "ImageSets" / "Main" / "train.txt"
        file.write_text(text)
        message = error_of(load_dataset, tmp_path)
        assert message.startswith(f"{file}: {item}: ")
        assert says in message
    file.write_text("b 1\na.jpg -1\n")
    assert [image.file.stem for image in load_dataset(tmp_path).images] == ["b", "a"]


@pytest.mark.parametrize(
    ("xml", "image"),
    [
        ("Annotations/a.xml", "JPEGImages/a.png"),
        ("annotations/a.xml", "images/a.png"),
        ("a.xml", "a.png"),
        ("train/a.xml", "train/a.png"),
        ("train/annotations/a.xml", "train/images/a.png"),
    ],
)
def test_layouts(tmp_path: Path, xml: str, image: str) -> None:
    write_image(tmp_path / image)
    (tmp_path / xml).parent.mkdir(exist_ok=True)
    (tmp_path / xml).write_text(voc_xml())
    assert available_splits(tmp_path) == ("train",)
    assert load_dataset(tmp_path).images[0].file == tmp_path / image


def test_the_image_is_found_by_stem_where_filename_is_of_no_use(tmp_path: Path) -> None:
    write_voc(tmp_path, voc_xml(filename="C:\\photos\\moved.jpg"))
    assert load_dataset(tmp_path).images[0].file.name == "a.png"
    (tmp_path / "train" / "a.xml").rename(tmp_path / "train" / "b.xml")
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{tmp_path / 'train' / 'b.xml'}: its image (C:\\photos\\moved.jpg) is in none of")


def test_two_files_about_one_image(tmp_path: Path) -> None:
    write_voc(tmp_path)
    (tmp_path / "train" / "b.xml").write_text(voc_xml())
    assert "describes the same image a.png" in error_of(load_dataset, tmp_path)


def test_images_without_a_file_are_left_out_and_counted(tmp_path: Path) -> None:
    write_voc(tmp_path)
    write_image(tmp_path / "train" / "b.png")
    report = check_dataset(tmp_path)
    assert report.ok
    assert report.warnings == {"no_annotation": 1}
    assert len(report.datasets["train"]) == 1


def test_classes_come_from_the_file_where_there_is_one(tmp_path: Path) -> None:
    file = write_voc(tmp_path)
    (tmp_path / "classes.txt").write_text("dog\n\n eel \ncat\n")
    dataset = load_dataset(tmp_path)
    assert dataset.class_names == ("dog", "eel", "cat")
    assert dataset.images[0].labels.tolist() == [2, 0]
    (tmp_path / "classes.txt").write_text("dog\ncats\n")
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{file}: object 1 (cat): 'cat' is not among the classes of {tmp_path / 'classes.txt'}")
    assert "did you mean 'cats'?" in message
    for text, says in (("dog\ndog\n", "'dog' is listed twice"), ("\n", "lists no classes")):
        (tmp_path / "classes.txt").write_text(text)
        assert error_of(load_dataset, tmp_path).startswith(f"{tmp_path / 'classes.txt'}: ")
        assert says in error_of(load_dataset, tmp_path)


def test_a_name_that_train_does_not_have(tmp_path: Path) -> None:
    write_voc(tmp_path)
    file = write_voc(tmp_path, voc_xml([("dgo", (1, 2, 11, 14))]), split="valid")
    message = error_of(load_dataset, tmp_path, "val")
    assert message.startswith(f"{file}: object 1 (dgo): 'dgo' is not among the classes of split train")
    assert "did you mean 'dog'?" in message
    assert check_dataset(tmp_path).errors == {"unknown_category": 1}
    write_voc(tmp_path, voc_xml([("dog", (1, 2, 11, 14))]), split="valid")
    assert load_dataset(tmp_path, "val").class_names == ("cat", "dog")  # as train has them


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;">]>'


@pytest.mark.parametrize(
    ("xml", "says"),
    [
        ("<annotation><object>", "is not valid XML"),
        ("", "is not valid XML"),
        (BOMB + "<annotation><filename>&y;</filename></annotation>", "entities"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>', "entities"),
        ('<?xml version="1.0" encoding="no-such"?><annotation/>', "XML"),
        ("<kml/>", "is not a PASCAL VOC annotation"),
    ],
)
def test_broken_and_hostile_xml(tmp_path: Path, xml: str, says: str) -> None:
    file = write_voc(tmp_path, xml)
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{file}: ")
    assert says in message


@pytest.mark.parametrize(
    "xml",
    [
        voc_xml([("cat", (1, 2, 11, 14)), ("cat", ("one", 2, 3, 4))]),
        voc_xml([("cat", (1, 2, 11, 14)), ("", (1, 2, 3, 4))]),
        voc_xml().replace("<ymax>14</ymax></bndbox></object></annotation>", "</bndbox></object></annotation>"),
        voc_xml([("cat", (1, 2, 11, 14))] * 2, extra="<difficult>maybe</difficult>"),
    ],
)
def test_faulty_objects_are_named(tmp_path: Path, xml: str) -> None:
    file = write_voc(tmp_path, xml)
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{file}: object ")
    assert "needs a <name>, a <bndbox>" in message


def test_no_objects_means_no_classes(tmp_path: Path) -> None:
    write_voc(tmp_path, voc_xml([]))
    assert "list them in" in error_of(load_dataset, tmp_path)
    (tmp_path / "classes.txt").write_text("cat\n")
    assert load_dataset(tmp_path).images[0].boxes.shape == (0, 4)


def test_a_list_without_images(tmp_path: Path) -> None:
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(voc_xml())
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("")
    assert "split train has no images" in error_of(load_dataset, tmp_path)
