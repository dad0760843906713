"""Conversion: the same targets, bit for bit, from COCO, VOC and YOLO, there and back."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicdet import yaml_loader
from mimicdet.data import convert
from mimicdet.data.check import check_dataset
from mimicdet.data.convert import convert_dataset
from mimicdet.data.dataset import DetectionDataset
from mimicdet.data.splits import available_splits, load_dataset
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

FORMATS: tuple[Literal["coco", "voc", "yolo"], ...] = ("coco", "voc", "yolo")


def targets(dataset: DetectionDataset, *, crowd: bool = True) -> list[tuple[Any, ...]]:
    """Everything of a data set that training sees, in order, as bytes."""
    rows = []
    for image in dataset.images:
        kept = np.ones(len(image.labels), bool) if crowd else ~image.crowd
        rows.append(
            (
                image.file.name,
                image.file.read_bytes(),
                image.height,
                image.width,
                image.boxes[kept].tobytes(),
                image.boxes[kept].astype(np.float32).tobytes(),
                image.labels[kept].tobytes(),
                image.crowd[kept].tobytes(),
            )
        )
    return rows


@needs_bccd
def test_bccd_gives_the_same_bytes_in_every_format(tmp_path: Path) -> None:
    reports = {"original": check_dataset(BCCD, verify_images=False)}
    for to in FORMATS:
        conversion = convert_dataset(BCCD, tmp_path / to, to)
        assert conversion.images == {"train": 48, "val": 16}
        assert conversion.objects == {"train": 812, "val": 276}
        reports[to] = check_dataset(tmp_path / to)
        assert reports[to].format == to
        assert reports[to].errors == reports[to].warnings == {}
    first = reports.pop("original")
    for report in reports.values():
        for split in ("train", "val"):
            assert targets(report.datasets[split]) == targets(first.datasets[split])
            assert report.datasets[split].class_names == ("RBC", "WBC", "Platelets")
            ours, theirs = (r.to_json()["splits"][split]["fingerprint"] for r in (report, first))
            assert ours == theirs
            for a, b in zip(report.datasets[split].images, first.datasets[split].images, strict=True):
                assert a.areas.tobytes() == b.areas.tobytes()


sides = st.integers(1, 5000)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """COCO documents with boxes of any precision within images of any size."""
    names = draw(
        st.lists(st.sampled_from(["cat", "dog", "no", "2", "a b", "é<&>'\"", "x: y"]), min_size=1, unique=True)
    )
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(draw(st.integers(1, 3))):
        width, height = draw(sides), draw(sides)
        images.append({"id": 10 * number + 3, "file_name": f"{number} x.png", "width": width, "height": height})
        for _ in range(draw(st.integers(0, 4))):
            fractions = [draw(st.floats(0, 1)) for _ in range(4)]
            x1, x2 = sorted((fractions[0] * width, fractions[1] * width))
            y1, y2 = sorted((fractions[2] * height, fractions[3] * height))
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": images[-1]["id"],
                    "iscrowd": draw(st.integers(0, 1)),
                    "category_id": 7 * draw(st.integers(0, len(names) - 1)),
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                }
            )
    categories = [{"id": 7 * n, "name": name} for n, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}


@settings(max_examples=40, deadline=None)
@given(documents(), st.sampled_from(FORMATS))
def test_any_boxes_survive_every_way_round(document: dict[str, Any], back: Literal["coco", "voc", "yolo"]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = root / "source"
        source.mkdir()
        for image in document["images"]:
            write_image(source / "train" / image["file_name"], image["width"], image["height"], mode="1")
        (source / "train.json").write_text(json.dumps(document))
        original = load_dataset(source, max_faulty_boxes=1.0)
        for via in FORMATS:
            convert_dataset(source, root / via, via, max_faulty_boxes=1.0)
            there = load_dataset(root / via)
            # YOLO cannot mark crowd, so those objects are not there; all else is.
            expected = targets(original, crowd=via != "yolo")
            assert targets(there) == expected
            assert there.class_names == original.class_names
            convert_dataset(root / via, root / f"{via}-{back}", back)
            again = load_dataset(root / f"{via}-{back}")
            assert targets(again) == (targets(original, crowd=False) if back == "yolo" else expected)
            assert again.class_names == original.class_names


def test_coco_keeps_ids_areas_and_crowd(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"][0].update(area=7.5, iscrowd=1)
    write_coco(tmp_path / "in", "valid", document)
    convert_dataset(tmp_path / "in", tmp_path / "out", "coco")
    a, b = load_dataset(tmp_path / "in", "valid"), load_dataset(tmp_path / "out", "valid")
    assert a.categories == b.categories
    assert a.images[0].id == b.images[0].id == 7
    assert b.images[0].areas.tolist() == [7.5, 160]
    assert b.images[0].crowd.tolist() == [True, False]


def test_crowd_becomes_difficult_in_voc_and_is_left_out_of_yolo(tmp_path: Path) -> None:
    document = coco_document()
    document["annotations"][0]["iscrowd"] = 1
    write_coco(tmp_path / "in", document=document)
    convert_dataset(tmp_path / "in", tmp_path / "voc", "voc")
    assert load_dataset(tmp_path / "voc").images[0].crowd.tolist() == [True, False]
    conversion = convert_dataset(tmp_path / "in", tmp_path / "yolo", "yolo")
    assert conversion.crowd_left_out == 1
    assert conversion.objects == {"train": 1}
    assert "1 crowd regions left out: YOLO cannot mark them" in conversion.lines()[-1]
    assert load_dataset(tmp_path / "yolo").images[0].labels.tolist() == [1]


def test_voc_counted_from_one_is_written_from_zero(tmp_path: Path) -> None:
    write_voc(tmp_path / "in", voc_xml([("cat", (1, 1, 40, 30))]))
    convert_dataset(tmp_path / "in", tmp_path / "out", "voc", voc_one_based=True)
    assert load_dataset(tmp_path / "out").images[0].boxes.tolist() == [[0, 0, 40, 30]]
    assert "<xmax>40</xmax>" in (tmp_path / "out" / "Annotations" / "a.xml").read_text()


def test_class_order_survives_voc(tmp_path: Path) -> None:
    write_yolo(tmp_path / "in", names="[zebra, ant]")
    convert_dataset(tmp_path / "in", tmp_path / "out", "voc")
    dataset = load_dataset(tmp_path / "out")
    assert dataset.class_names == ("zebra", "ant")
    assert dataset.images[0].labels.tolist() == [0, 1]


def test_split_names(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        write_coco(tmp_path / "in", split)
    for to, names in (("coco", ("train", "valid")), ("voc", ("train", "valid")), ("yolo", ("train", "val"))):
        convert_dataset(tmp_path / "in", tmp_path / to, to)  # type: ignore[arg-type]
        assert available_splits(tmp_path / to) == names


def test_splits_that_yolo_would_call_the_same_are_not_lost(tmp_path: Path) -> None:
    for split in ("train", "valid", "val"):
        write_coco(tmp_path / "in", split)
    assert "several splits would be called 'val'" in error_of(convert_dataset, tmp_path / "in", tmp_path / "o", "yolo")


def test_images_of_the_same_name_are_kept_apart(tmp_path: Path) -> None:
    document = coco_document()
    document["images"] += [
        {"id": 8, "file_name": "sub/a.png", "width": 20, "height": 20},
        {"id": 9, "file_name": "A.jpg", "width": 25, "height": 20},
    ]
    for split in ("train", "val"):
        write_coco(tmp_path / "in", split, document)
        write_image(tmp_path / "in" / split / "sub" / "a.png", 20, 20)
        write_image(tmp_path / "in" / split / "A.jpg", 25, 20)
    names = {
        "coco": (["a.png", "train_a.png", "train_2_A.jpg"], ["a.png", "val_a.png", "val_2_A.jpg"]),
        "voc": (["a.png", "train_a.png", "train_2_A.jpg"], ["val_a.png", "val_2_a.png", "val_3_A.jpg"]),
    }
    for to, expected in names.items():
        convert_dataset(tmp_path / "in", tmp_path / to, to)  # type: ignore[arg-type]
        for split, stems in zip(("train", "val"), expected, strict=True):
            dataset = load_dataset(tmp_path / to, split)
            assert [image.file.name for image in dataset.images] == stems
            assert [image.width for image in dataset.images] == [40, 20, 25]


def test_refusals(tmp_path: Path) -> None:
    write_coco(tmp_path / "in")
    out = tmp_path / "out"
    assert "to must be 'coco' or 'voc' or 'yolo', not 'csv'" in error_of(convert_dataset, tmp_path / "in", out, "csv")
    out.mkdir()
    (out / "x").touch()
    assert error_of(convert_dataset, tmp_path / "in", out, "voc").startswith(f"{out}: exists already")
    assert error_of(convert_dataset, tmp_path / "in", out / "x", "voc").startswith(f"{out / 'x'}: exists already")
    write_coco(tmp_path / "in", "val", coco_document(names=("cat", "dgo")))
    assert "did you mean 'dog'?" in error_of(convert_dataset, tmp_path / "in", tmp_path / "new", "voc")
    assert not (tmp_path / "new").exists()


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    write_coco(tmp_path / "in")
    (tmp_path / "out").mkdir()
    convert_dataset(tmp_path / "in", tmp_path / "out", "yolo")
    assert len(load_dataset(tmp_path / "out")) == 1


def test_names_that_the_format_cannot_tell(tmp_path: Path) -> None:
    write_voc(tmp_path / "voc")
    shutil.move(tmp_path / "voc" / "train", tmp_path / "voc" / "Annotations")
    lists = tmp_path / "voc" / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    for name in ("one", "two"):
        (lists / f"{name}.txt").write_text("a\n")
    assert "split 'one' cannot be written" in error_of(convert_dataset, tmp_path / "voc", tmp_path / "out", "yolo")
    assert "split 'one' cannot be written" in error_of(convert_dataset, tmp_path / "voc", tmp_path / "out", "coco")
    convert_dataset(tmp_path / "voc", tmp_path / "again", "voc")
    assert available_splits(tmp_path / "again") == ("one", "two")
    write_coco(tmp_path / "odd", document=coco_document(file_name="a"))
    (tmp_path / "odd" / "train" / "a.png").rename(tmp_path / "odd" / "train" / "a")
    assert "does not end as an image's" in error_of(convert_dataset, tmp_path / "odd", tmp_path / "out", "yolo")


@pytest.mark.parametrize(("number", "says"), [(errno.ENOSPC, "the disk is full"), (errno.EACCES, "Permission denied")])
def test_nothing_is_left_of_a_conversion_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, says: str
) -> None:
    write_coco(tmp_path / "in")

    def fail(*args: object) -> None:
        raise OSError(number, "Permission denied" if number == errno.EACCES else "No space left on device")

    monkeypatch.setattr(convert.shutil, "copyfile", fail)
    assert says in error_of(convert_dataset, tmp_path / "in", tmp_path / "out", "yolo")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_more_classes_than_yolo_numbers_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_loader, "MAX_VALUES", 30)
    names = tuple(f"c{n}" for n in range(15))
    write_coco(tmp_path / "in", document=coco_document(names=names))
    convert_dataset(tmp_path / "in", tmp_path / "out", "yolo")
    assert load_dataset(tmp_path / "out").class_names == names
    write_coco(tmp_path / "more", document=coco_document(names=(*names, *(f"d{n}" for n in range(15)))))
    assert "more than YOLO's YAML file can hold" in error_of(
        convert_dataset, tmp_path / "more", tmp_path / "none", "yolo"
    )
    assert not (tmp_path / "none").exists()
