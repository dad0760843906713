"""`check`: every fault by kind, in every format, and a report for people and scripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import ExifTags, Image

from mimicdet.data import check as module
from mimicdet.data.check import check_dataset
from mimicdet.data.faults import FaultKind
from mimicdet.data.splits import load_dataset
from tests.fakes.small_sets import (
    BCCD,
    coco_document,
    error_of,
    needs_bccd,
    voc_xml,
    write_coco,
    write_image,
    write_voc,
    write_yolo,
)

GOOD = (10, 5, 20, 15)
BAD_BOXES = {  # x1 y1 x2 y2 in an image of 40 x 30
    "box_not_finite": (1, float("nan"), 11, 14),
    "box_inverted": (11, 2, 1, 14),
    "box_no_area": (1, 2, 1, 14),
    "box_outside": (41, 2, 50, 14),
    "box_overflow": (30, 2, 50, 14),
    "box_clipped": (30, 2, 41, 14),
}


def coco_with(root: Path, *boxes: tuple[float, ...]) -> Path:
    document = coco_document([(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes], names=("cat",))
    return write_coco(root, document=document)


def voc_with(root: Path, *boxes: tuple[float, ...]) -> Path:
    return write_voc(root, voc_xml([("cat", box) for box in boxes]))


def yolo_with(root: Path, *boxes: tuple[float, ...]) -> Path:
    lines = (f"0 {(a + c) / 80} {(b + d) / 60} {(c - a) / 40} {(d - b) / 30}\n" for a, b, c, d in boxes)
    return write_yolo(root, "".join(lines), names="[cat]")


@pytest.mark.parametrize("write", [coco_with, voc_with, yolo_with])
@pytest.mark.parametrize("kind", BAD_BOXES)
def test_faulty_boxes_have_the_same_kind_in_every_format(tmp_path: Path, write: Callable[..., Path], kind: str) -> None:
    file = write(tmp_path, GOOD, BAD_BOXES[kind])
    report = check_dataset(tmp_path, max_faulty_boxes=0.5)
    assert report.ok
    assert report.warnings == {kind: 1}
    (fault,) = report.logs["train"].examples[next(k for k in FaultKind if k.key == kind)]
    assert fault.file == file
    assert fault.item in ("annotation 1", "object 2 (cat)", "line 2")
    dataset = report.datasets["train"]
    assert dataset.images[0].boxes.tolist()[0] == list(GOOD)
    kept = dataset.images[0].boxes.tolist()[1:]
    assert kept == ([[30, 2, 40, 14]] if kind in ("box_clipped", "box_overflow") else [])

    message = error_of(load_dataset, tmp_path) if kind != "box_clipped" else ""
    strict = check_dataset(tmp_path)
    if kind == "box_clipped":
        assert strict.ok
    else:
        assert strict.errors == {"too_many_faulty_boxes": 1}
        assert "1 of the 2 boxes of split train are faulty" in message
        assert "--data.max_faulty_boxes" in message


def test_truncated_images_are_found_by_decoding(tmp_path: Path) -> None:
    write_coco(tmp_path)
    image = tmp_path / "train" / "a.png"
    image.write_bytes(image.read_bytes()[:60])
    report = check_dataset(tmp_path)
    assert report.errors == {"unreadable_image": 1}
    assert error_of(report.raise_errors).startswith(f"{image}: the image is truncated")
    assert check_dataset(tmp_path, verify_images=False).ok


def test_exif_is_named_where_sides_are_swapped(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = write_coco(tmp_path)
    write_image(tmp_path / "train" / "a.png", 40, 30, exif=exif)  # a viewer shows 30 x 40
    report = check_dataset(tmp_path)
    assert report.errors == {"wrong_size": 1}
    message = error_of(report.raise_errors)
    assert message.startswith(f"{file}: image 7 (a.png): the size is recorded as 40 x 30")
    assert "EXIF orientation" in message
    write_coco(tmp_path, document=coco_document(width=30, height=40))
    write_image(tmp_path / "train" / "a.png", 40, 30, exif=exif)
    assert check_dataset(tmp_path).ok


def test_categories_that_differ_between_splits(tmp_path: Path) -> None:
    train = write_coco(tmp_path)
    val = write_coco(tmp_path, "val", coco_document(names=("cat", "dgo")))
    report = check_dataset(tmp_path)
    assert report.errors == {"categories_differ": 2}
    message = error_of(report.raise_errors)
    assert message.startswith(f"{val}: category 'dgo': is not in {train} (did you mean 'dog'?)")
    assert check_dataset(tmp_path, splits=["val"]).ok


def test_a_split_that_cannot_be_read_does_not_hide_the_others(tmp_path: Path) -> None:
    train = write_coco(tmp_path)
    train.write_text("{")
    write_coco(tmp_path, "val", coco_document(width=41))
    report = check_dataset(tmp_path)
    assert report.errors == {"broken_file": 1, "wrong_size": 1}
    assert error_of(report.raise_errors).startswith(f"{train}: is not valid JSON")
    assert list(report.datasets) == ["val"]
    assert any("broken_file" in line for line in report.lines())


def test_all_faults_of_a_file_are_counted(tmp_path: Path) -> None:
    document = coco_document([(1, 2, 3, 4)] * 6)
    for annotation, change in zip(
        document["annotations"],
        ({"category_id": 99}, {"category_id": 98}, {"image_id": 99}, {"bbox": None}, {"id": 3}, {}),
        strict=True,
    ):
        annotation.update(change)
    document["images"].append({"id": 8, "file_name": "gone.png"})
    write_coco(tmp_path, document=document)
    assert check_dataset(tmp_path).errors == {
        "unknown_category": 2,
        "unknown_image": 1,
        "broken_record": 1,
        "duplicate_annotation": 1,
        "missing_image": 1,
    }


def test_splits_without_images_and_without_objects(tmp_path: Path) -> None:
    document = coco_document(boxes=[])
    write_coco(tmp_path, document=document)
    report = check_dataset(tmp_path)
    assert report.ok
    assert report.warnings == {"no_objects": 1}
    write_coco(tmp_path, document=coco_document(names=("fish",)))
    val = coco_document(boxes=[(1, 2, 10, 12)], names=("fish",))
    val["annotations"][0]["iscrowd"] = 1
    val_file = write_coco(tmp_path, "val", document=val)
    report = check_dataset(tmp_path)
    assert report.warnings == {"no_objects": 1}, "crowds are nothing to measure by"
    assert "split val: none of its images has an object" in "\n".join(report.lines())
    val_file.unlink()
    document["images"] = []
    write_coco(tmp_path, document=document)
    assert check_dataset(tmp_path).errors == {"no_images": 1}
    assert "split train has no images" in error_of(load_dataset, tmp_path)


def test_category_warnings(tmp_path: Path) -> None:
    write_coco(tmp_path, document=coco_document([(1, 2, 3, 4)], names=("sea fish", "Sea_Fish")))
    assert check_dataset(tmp_path).warnings == {"unused_category": 1, "similar_categories": 1}


def test_one_file_under_two_ids(tmp_path: Path) -> None:
    document = coco_document()
    document["images"].append({"id": 8, "file_name": "a.png"})
    write_coco(tmp_path, document=document)
    assert check_dataset(tmp_path).warnings == {"shared_image": 1}


def test_chosen_splits(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        write_coco(tmp_path, split)
    assert list(check_dataset(tmp_path).datasets) == ["train", "valid", "test"]
    assert list(check_dataset(tmp_path, splits=["val+test"]).datasets) == ["valid", "test"]
    assert list(check_dataset(tmp_path, splits=("test", "test")).datasets) == ["test"]
    assert "there is no split 'tset'; did you mean 'test'?" in error_of(check_dataset, tmp_path, splits=["tset"])


def test_missing_folder(tmp_path: Path) -> None:
    assert error_of(check_dataset, tmp_path / "x").startswith(f"{tmp_path / 'x'}: there is no such file or folder")


def test_the_report_for_scripts(tmp_path: Path) -> None:
    file = coco_with(tmp_path, *[GOOD] * 3, *[BAD_BOXES["box_inverted"]] * 7)
    report = check_dataset(tmp_path)
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert content["format"] == "coco"
    assert content["path"] == str(tmp_path)
    assert content["ok"] is False
    assert content["errors"] == {"too_many_faulty_boxes": 1}
    assert content["warnings"] == {"box_inverted": 7, "duplicate_object": 2}
    train = content["splits"]["train"]
    assert (train["images"], train["objects"], train["classes"]) == (1, 3, {"cat": 3})
    faults = train["faults"]["box_inverted"]
    assert (faults["count"], faults["stops_training"], len(faults["examples"])) == (7, False, 5)
    assert faults["examples"][0]["file"] == str(file)
    assert faults["examples"][0]["item"] == "annotation 3"


def test_the_report_for_people(tmp_path: Path) -> None:
    coco_with(tmp_path, *[GOOD] * 3, *[BAD_BOXES["box_inverted"]] * 7)
    text = "\n".join(check_dataset(tmp_path, max_faulty_boxes=1).lines())
    assert text.startswith(f"{tmp_path}: COCO, 1 class\n")
    assert "errors: none" in text
    assert "7 boxes that end before they begin (dropped) (box_inverted)" in text
    assert "    and 2 more" in text


@pytest.mark.parametrize("write", [coco_with, voc_with, yolo_with])
def test_load_dataset_gives_what_check_saw(tmp_path: Path, write: Callable[..., Path]) -> None:
    write(tmp_path, GOOD, BAD_BOXES["box_clipped"], (0, 0, 7.25, 3.5))
    checked = check_dataset(tmp_path).datasets["train"]
    loaded = load_dataset(tmp_path)
    assert module.fingerprint(checked) == module.fingerprint(loaded)
    assert checked.images[0].boxes.tobytes() == loaded.images[0].boxes.tobytes()


@needs_bccd
def test_bccd_has_no_faults() -> None:
    report = check_dataset(BCCD)
    assert report.errors == report.warnings == {}
    assert report.to_json()["splits"]["val"]["classes"] == {"RBC": 239, "WBC": 16, "Platelets": 21}
