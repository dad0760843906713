"""COCO: layouts, ids with gaps, crowd, and one clear sentence for every kind of bad record."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mimicdet.data.check import check_dataset
from mimicdet.data.faults import FaultKind
from mimicdet.data.splits import available_splits, load_dataset
from tests.fakes.small_sets import coco_document, error_of, write_coco, write_image


def write(root: Path, document: Any) -> Path:
    return write_coco(root, document=document)


def changed(key: str, **fields: Any) -> dict[str, Any]:
    """The usual document with fields of the first image, annotation or category replaced; None takes one out."""
    document = coco_document()
    record = document[key][0]
    record.update(fields)
    for name, value in fields.items():
        if value is None:
            del record[name]
    return document


def test_ids_with_gaps_become_class_indices(tmp_path: Path) -> None:
    document = coco_document(names=("cat", "dog", "eel"), boxes=[(1, 2, 10, 12)] * 4)
    document["categories"].reverse()
    write(tmp_path, document)
    dataset = load_dataset(tmp_path)
    assert [(c.id, c.name) for c in dataset.categories] == [(3, "cat"), (6, "dog"), (9, "eel")]
    (image,) = dataset.images
    assert (image.id, image.height, image.width, image.file.name) == (7, 30, 40, "a.png")
    assert image.labels.tolist() == [0, 1, 2, 0]
    assert image.boxes[0].tolist() == [1, 2, 11, 14]
    assert image.areas.tolist() == [120] * 4


def test_recorded_area_crowd_and_any_segmentation(tmp_path: Path) -> None:
    document = coco_document()
    for record, segmentation in zip(
        document["annotations"],
        ({"counts": "abc", "size": [30, 40]}, {"counts": [3, 5], "size": [30, 40]}),
        strict=True,
    ):
        record.update(iscrowd=1, area=11.5, segmentation=segmentation)
    document["annotations"].append({"id": 9, "image_id": 7, "category_id": 3, "bbox": [0, 0, 2, 2]})
    write(tmp_path, document)
    (image,) = load_dataset(tmp_path).images
    assert image.crowd.tolist() == [True, True, False]
    assert image.areas.tolist() == [11.5, 11.5, 4]


def test_images_without_annotations_are_kept(tmp_path: Path) -> None:
    document = coco_document(boxes=[])
    write(tmp_path, document)
    (image,) = load_dataset(tmp_path).images
    assert image.boxes.shape == (0, 4)


def test_size_may_be_left_out(tmp_path: Path) -> None:
    write(tmp_path, changed("images", width=None, height=None))
    assert load_dataset(tmp_path).images[0].width == 40


@pytest.mark.parametrize(
    ("annotations", "image", "name"),
    [
        ("train.json", "train/a.png", "a.png"),
        ("train.json", "a.png", "a.png"),
        ("train.json", "images/a.png", "a.png"),
        ("train.json", "images/train/a.png", "a.png"),
        ("train.json", "train/a.png", "train/a.png"),
        ("train.json", "train/images/a.png", "a.png"),
        ("train.json", "train/sub/a.png", "sub\\a.png"),
        ("annotations/instances_train2017.json", "train2017/a.png", "a.png"),
        ("annotations/instances_train2017.json", "images/train2017/a.png", "a.png"),
        ("annotations/instances_train2017.json", "images/a.png", "a.png"),
        ("annotations/instances_train.json", "train/a.png", "a.png"),
        ("train/_annotations.coco.json", "train/a.png", "a.png"),
        ("train/labels.json", "train/images/a.png", "images/a.png"),
        ("whatever.json", "images/a.png", "a.png"),
        ("whatever.json", "a.png", "a.png"),
    ],
)
def test_layouts(tmp_path: Path, annotations: str, image: str, name: str) -> None:
    write_image(tmp_path / image)
    file = tmp_path / annotations
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(coco_document(file_name=name)))
    assert available_splits(tmp_path) == ("train",)
    assert load_dataset(tmp_path).images[0].file == tmp_path / image
    assert load_dataset(file).images[0].file == tmp_path / image


def test_images_of_the_split_come_before_others_of_the_same_name(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_coco(tmp_path, split)
    write_image(tmp_path / "a.png", 5, 5)
    for split in ("train", "val"):
        assert load_dataset(tmp_path, split).images[0].file == tmp_path / split / "a.png"


def test_a_single_file_has_the_split_its_name_speaks_of(tmp_path: Path) -> None:
    file = write_coco(tmp_path, "val")
    assert available_splits(file) == ("val",)
    assert load_dataset(file, "valid").split == "val"
    assert "there is no split 'train'; it has val" in error_of(load_dataset, file)


def test_other_json_files_do_not_get_in_the_way(tmp_path: Path) -> None:
    write_coco(tmp_path)
    (tmp_path / "model.json").write_text("{}")
    (tmp_path / "captions_train2017.json").write_text("{}")
    assert available_splits(tmp_path) == ("train",)


def test_byte_order_mark(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
    assert len(load_dataset(tmp_path)) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"images": [', "is not valid JSON"),
        ("", "is not valid JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ('{"images": [' + "9" * 5000 + "]}", "is not usable JSON"),
        ("[]", "holds a list, not COCO ground truth"),
        ("3", "has no list 'images'"),
        ('{"images": [], "annotations": []}', "has no list 'categories'"),
        ('{"images": {}, "annotations": [], "categories": []}', "has no list 'images'"),
        ('{"images": [], "annotations": [], "categories": []}', "lists no categories"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "categories[0]: needs a whole number"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": " "}]}', "categories[0]"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}', "split train has no images"),
    ],
)
def test_broken_files(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "train.json"
    file.write_text(text)
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{file}: ")
    assert says in message


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    file = tmp_path / "train.json"
    file.write_bytes(b'{"images": "\xff"}')
    assert error_of(load_dataset, tmp_path).startswith(f"{file}: is not UTF-8 text")


@pytest.mark.parametrize(
    ("document", "item", "says"),
    [
        (changed("categories", id=6), "categories[1]", "id 6 is also that of 'cat'"),
        (changed("categories", name="dog "), "categories[1]", "two categories named 'dog'"),
        (changed("images", id=None), "images[0]", "whole number `id`"),
        (changed("images", id="seven"), "images[0]", "whole number `id`"),
        (changed("images", file_name=None), "image 7", "`file_name`"),
        (changed("images", width="40"), "image 7 (a.png)", "positive whole numbers"),
        (changed("images", height=0), "image 7 (a.png)", "positive whole numbers"),
        (changed("images", file_name="b.png"), "image 7 (b.png)", "there is no such file in"),
        (changed("images", width=30, height=40), "image 7 (a.png)", "EXIF"),
        (changed("images", width=41), "image 7 (a.png)", "recorded as 41 x 30 (width x height)"),
        (changed("annotations", image_id=8), "annotation 0", "image_id 8 is not among `images`"),
        (changed("annotations", image_id=None), "annotation 0", "whole numbers `image_id`"),
        (changed("annotations", category_id=4), "annotation 0", "category_id 4 is not among the categories (3, 6)"),
        (changed("annotations", id=1), "annotation 1", "this id is used twice"),
        (changed("annotations", bbox=[1, 2, 3]), "annotation 0", "four numbers"),
        (changed("annotations", bbox=[1, 2, "3", 4]), "annotation 0", "four numbers"),
        (changed("annotations", bbox=[1, 2, None, 4]), "annotation 0", "four numbers"),
        (changed("annotations", bbox=[1, 2, True, 4]), "annotation 0", "four numbers"),
        (changed("annotations", id=None, bbox=None), "annotations[0]", "four numbers"),
        (changed("annotations", bbox=None, keypoints=[1, 2, 2]), "annotation 0", "its keypoints cannot stand in"),
        (changed("annotations", iscrowd=2), "annotation 0", "iscrowd is 2"),
    ],
)
def test_faulty_records_are_named(tmp_path: Path, document: Any, item: str, says: str) -> None:
    file = write(tmp_path, document)
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{file}: {item}: ")
    assert says in message


def test_the_same_image_id_twice(tmp_path: Path) -> None:
    document = coco_document()
    document["images"] *= 2
    file = write(tmp_path, document)
    assert error_of(load_dataset, tmp_path).startswith(f"{file}: image 7: this id is used twice")


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-Infinity", "1" + "0" * 400])
def test_boxes_that_are_not_finite(tmp_path: Path, bad: str) -> None:
    file = write_coco(tmp_path)
    file.write_text(file.read_text().replace("[1, 2, 10, 12]", f"[1, {bad}, 10, 12]"))
    assert "box_not_finite" in error_of(load_dataset, tmp_path)
    (image,) = load_dataset(tmp_path, max_faulty_boxes=0.5).images
    assert image.labels.tolist() == [1]


def test_missing_images_are_counted(tmp_path: Path) -> None:
    document = coco_document()
    document["images"] += [{"id": n, "file_name": f"{n}.png"} for n in range(10, 15)]
    write(tmp_path, document)
    assert f"(and 4 more: `mimicdet check {tmp_path}` lists them)" in error_of(load_dataset, tmp_path)


def test_truncated_images_pass_the_header_and_missing_folders_do_not(tmp_path: Path) -> None:
    write_coco(tmp_path)
    image = tmp_path / "train" / "a.png"
    image.write_bytes(image.read_bytes()[:60])
    assert len(load_dataset(tmp_path)) == 1  # `check` decodes it
    image.write_bytes(b"")
    assert error_of(load_dataset, tmp_path).startswith(f"{image}: ")
    shutil.rmtree(image.parent)
    assert "there is no such file in" in error_of(load_dataset, tmp_path)


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2.7, True, "7", 1e300, 2.0**53 + 2, [1]])
@pytest.mark.parametrize(
    ("key", "field", "says"),
    [
        ("images", "id", "needs a whole number `id`"),
        ("categories", "id", "needs a whole number `id`"),
        ("annotations", "id", "needs a whole number `id`"),
        ("annotations", "image_id", "needs whole numbers `image_id` and `category_id`"),
        ("annotations", "category_id", "needs whole numbers `image_id` and `category_id`"),
    ],
)
def test_ids_that_are_no_whole_numbers_of_64_bits(tmp_path: Path, number: Any, key: str, field: str, says: str) -> None:
    file = write(tmp_path, changed(key, **{field: number}))
    message = error_of(load_dataset, tmp_path)
    assert message.startswith(f"{file}: ")
    assert says in message


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 2**53 + 1, 0, 7.0])
def test_ids_of_64_bits_are_kept(tmp_path: Path, number: float) -> None:
    document = changed("images", id=number)
    for annotation in document["annotations"]:
        annotation.update(image_id=number, category_id=number)
    document["categories"][1]["id"] = number
    write(tmp_path, document)
    truth = load_dataset(tmp_path).to_coco()
    ids = (truth["images"][0]["id"], truth["annotations"][1]["image_id"], truth["annotations"][1]["category_id"])
    assert ids == (number, number, number)
    assert all(type(number) is int for number in ids)


def test_a_field_given_twice(tmp_path: Path) -> None:
    file = write_coco(tmp_path)
    file.write_text(file.read_text().replace('"bbox": [1,', '"bbox": [0, 0, 5, 5], "bbox": [1,'))
    assert "two fields 'bbox'" in error_of(load_dataset, tmp_path)


def with_heading(name: str, above: str | None, number: int = 0) -> dict[str, Any]:
    """The usual document as Roboflow writes it: a category that all others have above them."""
    document = coco_document()
    under = [{**category, "supercategory": name} for category in document["categories"]]
    return document | {"categories": [{"id": number, "name": name, "supercategory": above}, *under]}


@pytest.mark.parametrize(
    ("name", "above"),
    [("animals", "none"), ("animals", ""), ("animals", None), ("animals", "animals"), ("cat", "none"), ("cat", None)],
)
@pytest.mark.parametrize("number", [0, 99])
def test_a_heading_of_the_others_is_no_class(tmp_path: Path, name: str, above: str | None, number: int) -> None:
    file = write(tmp_path, with_heading(name, above, number))
    report = check_dataset(tmp_path)
    assert (report.errors, report.warnings) == ({}, {"heading": 1})
    assert report.datasets["train"].class_names == ("cat", "dog")
    (fault,) = report.logs["train"].examples[FaultKind.HEADING]
    assert (fault.file, fault.item) == (file, f"category {name!r} (id {number})")


def test_a_heading_with_objects_in_any_split_is_a_class(tmp_path: Path) -> None:
    document = with_heading("animals", "none")
    write_coco(tmp_path, "train", document)
    document["annotations"][0]["category_id"] = 0
    write_coco(tmp_path, "val", document)
    for split in ("train", "val"):
        assert load_dataset(tmp_path, split).class_names == ("animals", "cat", "dog")
    assert check_dataset(tmp_path).errors == {}


@pytest.mark.parametrize(("above", "names"), [("none", ("cat", "dog")), ("things", ("animals", "cat", "dog"))])
def test_without_annotations_only_roboflows_heading_is_left_out(
    tmp_path: Path, above: str, names: tuple[str, ...]
) -> None:
    write(tmp_path, with_heading("animals", above) | {"annotations": []})
    assert load_dataset(tmp_path).class_names == names


def test_a_class_under_its_own_name_or_another_class_stays(tmp_path: Path) -> None:
    document = coco_document([(1, 2, 3, 4)], names=("person", "rider", "bike"))
    for category, above in zip(document["categories"], ("person", "person", "vehicle"), strict=True):
        category["supercategory"] = above
    write(tmp_path, document)  # all objects are of the first
    assert load_dataset(tmp_path).class_names == ("person", "rider", "bike")


def test_images_without_annotations_are_a_split_to_predict(tmp_path: Path) -> None:
    document = coco_document(boxes=[])
    del document["annotations"]
    write_image(tmp_path / "test2017" / "a.png")
    file = tmp_path / "annotations" / "image_info_test-dev2017.json"
    file.parent.mkdir()
    file.write_text(json.dumps(document))
    for path in (tmp_path, file):
        dataset = load_dataset(path, "test", annotated=False)
        assert [(image.id, image.file) for image in dataset.images] == [(7, tmp_path / "test2017" / "a.png")]
        assert not len(dataset.images[0].labels)
        assert "has no list 'annotations'" in error_of(load_dataset, path, "test-dev")
    (file.parent / "instances_val2017.json").write_text(json.dumps(coco_document()))
    assert available_splits(tmp_path) == ("val",), "it is no split to check beside those with annotations"


def test_a_file_under_two_names_is_one_file(tmp_path: Path) -> None:
    document = coco_document()
    document["images"].append({"id": 8, "file_name": "./a.png"})
    write(tmp_path, document)
    assert check_dataset(tmp_path).warnings == {"shared_image": 1}


@pytest.mark.parametrize("link", [os.link, os.symlink])
def test_a_link_to_an_image_is_the_same_file(tmp_path: Path, link: Callable[[Path, Path], None]) -> None:
    document = coco_document()
    document["images"].append({"id": 8, "file_name": "b.png"})
    write(tmp_path, document)
    link(tmp_path / "train" / "a.png", tmp_path / "train" / "b.png")
    report = check_dataset(tmp_path)
    assert report.warnings == {"shared_image": 1}
    assert "image 8 (b.png): image 7 is the same file" in "\n".join(report.lines())
    (tmp_path / "train" / "b.png").unlink()
    shutil.copy(tmp_path / "train" / "a.png", tmp_path / "train" / "b.png")
    assert not check_dataset(tmp_path).warnings


def test_another_json_file_beside_roboflows_hides_no_split(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_image(tmp_path / split / "a.png")
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(coco_document()))
    (tmp_path / "train" / "notes.json").write_text("{}")
    assert available_splits(tmp_path) == ("train", "valid")


def test_what_is_not_used_is_counted(tmp_path: Path) -> None:
    document = coco_document(names=("cat",))
    first, second = document["annotations"]
    first |= {"segmentation": [[1, 1, 2, 2, 3, 1]], "keypoints": [0, 0, 0], "ignore": 1, "score": 0.5}
    second |= {"segmentation": {"counts": "a", "size": [1, 1]}, "keypoints": [1, 1, 2], "num_keypoints": 1, "ignore": 0}
    second |= {"attributes": {"occluded": False}, "\x1b[2J": "x"}
    document["images"][0]["neg_category_ids"] = [3]
    file = write_coco(tmp_path, document=document)
    report = check_dataset(tmp_path)
    assert (report.errors, report.warnings, report.notes) == ({}, {}, {"unused": 7})
    (note,) = report.logs["train"].examples[FaultKind.UNUSED]
    assert note.sentence().startswith(f"{file}: split train: segmentation: 2, ")
    for text in ("keypoints: 1", "ignore: 1", "score: 1", "neg_category_ids: 1", "x1b[2J"):
        assert text in note.sentence()
    assert "attributes" not in note.sentence()
    assert report.lines()[-4:-1] == ["notes:", f"  7 {FaultKind.UNUSED.title} (unused)", f"    {note.sentence()}"]
    assert "warnings: none" in report.lines()


def test_images_that_no_split_lists_are_counted(tmp_path: Path) -> None:
    write_coco(tmp_path)
    write_coco(tmp_path, "val")
    assert check_dataset(tmp_path).notes == {}
    for name in ("b.png", "c.jpg", "d.txt"):
        write_image(tmp_path / "val" / name, format="png")
    report = check_dataset(tmp_path)
    assert (report.warnings, report.notes) == ({}, {"unlisted": 2})
    (note,) = report.between.examples[FaultKind.UNLISTED]
    assert note.problem.endswith("2 images beside those of the splits are in no annotation file, such as b.png, c.jpg")
    assert check_dataset(tmp_path, splits=["train"]).notes == {}  # what other splits list is not known then


def test_an_image_that_another_split_lists_is_listed(tmp_path: Path) -> None:
    for split, name in (("train", "a.png"), ("val", "b.png")):
        (tmp_path / f"{split}.json").write_text(json.dumps(coco_document(file_name=name)))
        write_image(tmp_path / "images" / name)
    (tmp_path / "link").symlink_to("images")
    (tmp_path / "val.json").write_text(json.dumps(coco_document(file_name="link/b.png")))
    assert check_dataset(tmp_path).notes == {}


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("categories", {"name": None}, "has the id 3 and the name None"),
        ("annotations", {"image_id": "seven"}, "has image_id 'seven', category_id 3"),
    ],
)
def test_messages_show_the_value(tmp_path: Path, part: str, change: dict[str, Any], says: str) -> None:
    document = coco_document()
    document[part][0] |= change
    write_coco(tmp_path, document=document)
    assert says in error_of(load_dataset, tmp_path)
