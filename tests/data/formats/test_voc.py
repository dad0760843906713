"""PASCAL VOC: layouts, classes, coordinates from 0 or 1, and hostile or broken XML."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mimicdet.data.check import check_dataset
from mimicdet.data.faults import FaultKind
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
        voc_xml([("cat", (1, 2, 11, 14))] * 2, extra="<difficult> </difficult>"),
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


def _pair(root: Path, stem: str, filename: str, corner: int) -> None:
    """An image in JPEGImages and its XML, whose box begins at the corner."""
    write_image(root / "JPEGImages" / f"{stem}.png")
    file = root / "Annotations" / f"{stem}.xml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(voc_xml([("cat", (corner, 2, 11, 14))], filename=filename))


def _boxes(root: Path) -> dict[str, float]:
    """The left side of each image's first box, by the image's path."""
    images = load_dataset(root).images
    return {image.file.relative_to(root).as_posix(): image.boxes[0, 0] for image in images}


def test_pairs_that_were_renamed_keep_their_boxes(tmp_path: Path) -> None:
    _pair(tmp_path, "1", "2.png", 1)
    _pair(tmp_path, "2", "1.png", 2)
    _pair(tmp_path, "3", "3", 3)
    _pair(tmp_path, "4.b", "x\\4.b.jpg", 4)
    assert _boxes(tmp_path) == {f"JPEGImages/{stem}.png": int(stem[0]) for stem in ("1", "2", "3", "4.b")}
    assert check_dataset(tmp_path).warnings == {"stale_name": 2}


def test_a_file_without_an_image_of_its_name_is_told_to_be_anothers(tmp_path: Path) -> None:
    _pair(tmp_path, "1", "1.png", 1)
    (tmp_path / "Annotations" / "1.xml").rename(tmp_path / "Annotations" / "old.xml")
    assert _boxes(tmp_path) == {"JPEGImages/1.png": 1}
    assert check_dataset(tmp_path).warnings == {"stale_name": 1}


def test_images_that_share_a_file(tmp_path: Path) -> None:
    _pair(tmp_path, "1", "1.png", 1)
    write_image(tmp_path / "JPEGImages" / "1.jpg")
    assert _boxes(tmp_path) == {"JPEGImages/1.png": 1}
    report = check_dataset(tmp_path)
    assert report.warnings == {"no_annotation": 1}
    assert (
        "1.xml is about another image of this name" in report.logs["train"].examples[FaultKind.NO_ANNOTATION][0].problem
    )
    _pair(tmp_path, "1", "1", 1)
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{tmp_path / 'Annotations' / '1.xml'}: 1.jpg and 1.png share it; keep one")


def test_folders_below_and_behind_links(tmp_path: Path) -> None:
    store, root = tmp_path / "store", tmp_path / "set"
    _pair(root, "a", "a.png", 1)
    _pair(root, "deep/a", "a.png", 2)
    _pair(store, "a", "a.png", 3)
    write_image(store / "JPEGImages" / "alone.png")
    write_image(root / "JPEGImages" / "b.png")
    (root / "Annotations" / "deep" / "b.xml").write_text(voc_xml([("cat", (4, 2, 11, 14))], filename="b.png"))
    (root / "Annotations" / "more").symlink_to(store / "Annotations")
    (root / "JPEGImages" / "more").symlink_to(store / "JPEGImages")
    (root / "Annotations" / "loop").symlink_to(root)
    (root / "JPEGImages" / "loop").symlink_to("loop")
    assert _boxes(root) == {
        "JPEGImages/a.png": 1,
        "JPEGImages/deep/a.png": 2,
        "JPEGImages/b.png": 4,
        "JPEGImages/more/a.png": 3,
    }
    assert check_dataset(root).warnings == {"no_annotation": 1, "left_out": 1}  # alone.png; the link that leads nowhere


def test_files_in_folders_below_only(tmp_path: Path) -> None:
    _pair(tmp_path, "deep/a", "a.png", 1)
    assert _boxes(tmp_path) == {"JPEGImages/deep/a.png": 1}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("<xmin>1</xmin>", "<xmin>1</xmin><xmin>2</xmin>", "object 1 (cat): has 2 times <xmin>"),
        ("<bndbox>", "<bndbox></bndbox><bndbox>", "object 1 (cat): has 2 times <bndbox>"),
        ("<name>cat</name>", "<name>cat</name><name>dog</name>", "object 1 (cat): has 2 times <name>"),
        ("<name>cat</name>", "<name>cat</name>" + "<difficult>0</difficult>" * 2, "has 2 times <difficult>"),
        ("<size>", "<size></size><size>", "has 2 times <size>"),
        ("<width>40</width>", "<width>40</width><width>41</width>", "has 2 times <width>"),
        ("<filename>", "<filename>b.png</filename><filename>", "has 2 times <filename>"),
        ("<xmin>1</xmin>", "<xmin>1<b/>0</xmin>", "<xmin> holds other elements"),
        ("<xmin>1</xmin>", "<xmin>1_0</xmin>", "needs a <name>, a <bndbox>"),
        ("<xmin>1</xmin>", "<xmin>१</xmin>", "needs a <name>, a <bndbox>"),
        ("<xmin>1</xmin>", "<xmin>１０</xmin>", "needs a <name>, a <bndbox>"),
        ("<width>40</width>", "<width>4_0</width>", "width '4_0' and height '30' must be"),
        ("<width>40</width>", "<width>４０</width>", "must be positive whole numbers"),
        ("<width>40</width>", "<width>40.5</width>", "must be positive whole numbers"),
        ("<width>40</width>", "<width>-40</width>", "must be positive whole numbers"),
        ("<width>40</width>", "<width>nan</width>", "must be positive whole numbers"),
        ("<width>40</width>", f"<width>{'9' * 5_000}</width>", "must be positive whole numbers"),
        (
            "</object></annotation>",
            "</object><objects><object/></objects></annotation>",
            "1 objects are not right inside",
        ),
        ("</object></annotation>", "</object><Object></Object></annotation>", "1 objects are not right inside"),
    ],
)
def test_doubled_fields_odd_numbers_and_hidden_objects_are_refused(
    tmp_path: Path, old: str, new: str, says: str
) -> None:
    xml = voc_xml()
    assert old in xml
    file = write_voc(tmp_path, xml.replace(old, new, 1))
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{file}: ")
    assert says in message


def test_one_of_the_corners_alone_is_taken_from_the_image(tmp_path: Path) -> None:
    write_voc(tmp_path, voc_xml().replace("<width>40</width>", "").replace("<xmin>1</xmin>", "<xmin> 1.0e0\n</xmin>"))
    assert load_dataset(tmp_path).images[0].boxes[0].tolist() == [1, 2, 11, 14]


@pytest.mark.parametrize("entry", ["../Annotations/a", "{root}/Annotations/a", "a" * 5_000])
def test_lists_that_leave_the_folder(tmp_path: Path, entry: str) -> None:
    _pair(tmp_path, "a", "a.png", 1)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text(f"a\n{entry.format(root=tmp_path)}\n")
    assert error_of(load_dataset, tmp_path).startswith(f"{lists / 'train.txt'}: line 2: there is no ")


def test_a_pipe_is_no_annotation_file(tmp_path: Path) -> None:
    write_voc(tmp_path).unlink()
    os.mkfifo(tmp_path / "train" / "a.xml")
    assert "is no file of text" in error_of(load_dataset, tmp_path)


def test_what_is_not_used_is_counted(tmp_path: Path) -> None:
    said = (
        "<truncated>1</truncated><occluded>true</occluded><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    )
    said += "<polygon><x1>1</x1></polygon><robndbox><cx>3</cx></robndbox>"
    unsaid = "<pose>Unspecified</pose><difficult>0</difficult><flipped> </flipped>"
    write_voc(tmp_path, voc_xml(extra=said + unsaid))
    report = check_dataset(tmp_path)
    assert (report.errors, report.warnings, report.notes) == ({}, {}, {"unused": 10})
    (note,) = report.logs["train"].examples[FaultKind.UNUSED]
    for tag in ("truncated", "occluded", "part", "polygon", "robndbox"):
        assert f"{tag}: 2" in note.problem
    write_voc(tmp_path, voc_xml(extra=unsaid))
    assert check_dataset(tmp_path).notes == {}


def test_files_in_no_list_are_counted(tmp_path: Path) -> None:
    for stem in "1234":
        _pair(tmp_path, stem, f"{stem}.png", int(stem))
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("1\n2\n")
    (lists / "val.txt").write_text("3\n4\n")
    assert check_dataset(tmp_path).notes == {}
    (lists / "val.txt").write_text("3\n")
    write_image(tmp_path / "JPEGImages" / "5.png")
    report = check_dataset(tmp_path, splits=["train"])
    assert (report.warnings, report.notes) == ({}, {"unlisted": 2})
    files, images = (note.problem for note in report.between.examples[FaultKind.UNLISTED])
    assert files == "1 annotation files are in no list of a split, such as 4.xml"
    assert images == "1 images without one are in no list of a split, such as 5.png"


@pytest.mark.parametrize("value", ["1_0", "5,7", ""])
def test_messages_show_the_value(tmp_path: Path, value: str) -> None:
    write_voc(tmp_path, voc_xml([("cat", (1, value, 11, 14))]))
    assert f"and has ymin {value!r}; correct it" in error_of(load_dataset, tmp_path)


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_an_image_under_two_names_is_told(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    file = write_voc(tmp_path)
    (image,) = (record.file for record in load_dataset(tmp_path).images)
    link(image, image.with_name(f"other{image.suffix}"))
    content = file.read_text().replace(f"<filename>{image.name}", f"<filename>other{image.suffix}")
    file.with_name("other.xml").write_text(content)
    report = check_dataset(tmp_path)
    assert report.warnings["shared_image"] == 1
    assert f"other{image.suffix}: {image} is the same file" in "\n".join(report.lines())


@pytest.mark.parametrize("name", ["a\x9bb", "a\u202eb", "\u200b"], ids=["of a terminal", "backwards", "nothing"])
def test_names_that_cannot_be_shown_are_no_classes(tmp_path: Path, name: str) -> None:
    """As in COCO and YOLO, which could not have them either."""
    write_voc(tmp_path, voc_xml([("cat", (1, 2, 11, 14)), (name, (1, 2, 11, 14))]))
    told = error_of(load_dataset, tmp_path)
    assert "object 2" in told
    assert "a <name> that is not printable" in told
    assert told.isprintable()


def test_a_file_of_gigabytes_is_no_annotation(tmp_path: Path) -> None:
    os.truncate(write_voc(tmp_path), 3 * 2**30)  # takes no room on the disk
    assert "is too large to describe an image (3,072 MB)" in error_of(load_dataset, tmp_path)
