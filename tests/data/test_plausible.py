"""What only all boxes of a split together tell: other units, other images, placeholders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mimicdet.data.check import check_dataset
from mimicdet.data.dataset import Category, DetectionDataset, ImageRecord
from mimicdet.data.plausible import odd_boxes
from tests.fakes.small_sets import coco_document, error_of, write_coco, write_image


def split_of(boxes: np.ndarray, *, images: int = 4, crowd: bool = False) -> DetectionDataset:
    """The boxes (N, 4) dealt to images of 600 x 400, the last of which has none."""
    records = []
    for i in range(images + 1):
        own = boxes[i : images * len(boxes) : images] if i < images else boxes[:0]
        n = len(own)
        objects = own, np.zeros(n, np.int64), np.full(n, crowd), np.ones(n)
        records.append(ImageRecord(i, Path(f"{i}.png"), 400, 600, *objects))
    return DetectionDataset(Path("cells"), "train", "coco", (Category(1, "cat"),), tuple(records))


def boxes_up_to(width: float, height: float, n: int = 12) -> np.ndarray:
    corners = np.sort(np.random.default_rng(0).uniform(0, (width, height), (n, 2, 2)), axis=1)
    return corners.reshape(-1, 4)


def test_boxes_of_a_smaller_image_and_placeholders_are_told() -> None:
    assert "upper left quarter" in (odd_boxes(split_of(boxes_up_to(100, 100))) or "")
    assert "upper left quarter" in (odd_boxes(split_of(boxes_up_to(300, 200))) or "")
    assert "all the same" in (odd_boxes(split_of(np.tile([0.0, 0, 600, 400], (12, 1)))) or "")


def test_ordinary_few_and_crowded_boxes_are_not() -> None:
    assert odd_boxes(split_of(boxes_up_to(600, 400))) is None
    assert odd_boxes(split_of(boxes_up_to(100, 100, 9))) is None
    assert odd_boxes(split_of(boxes_up_to(100, 100), images=2)) is None
    assert odd_boxes(split_of(boxes_up_to(100, 100), crowd=True)) is None
    assert odd_boxes(split_of(boxes_up_to(1, 1))) is None, "fractions are told of one by one"


@pytest.mark.parametrize(("faulty", "good", "refused"), [(4, 0, True), (3, 2, True), (3, 3, False), (2, 0, False)])
def test_fractions_of_the_sides(tmp_path: Path, faulty: int, good: int, refused: bool) -> None:
    boxes = [(0.1 * n, 0.2, 0.3, 0.5) for n in range(1, 1 + faulty)] + [(n % 30, 1, 5, 6) for n in range(good)]
    write_coco(tmp_path, "train", coco_document([(1, 2, 10, 12)]))
    file = write_coco(tmp_path, "val", coco_document(boxes))
    report = check_dataset(tmp_path)
    assert report.warnings["box_fraction"] == faulty
    assert report.logs["train"].counts == {}
    assert report.errors == ({"fractions": 1} if refused else {})
    if refused:
        message = error_of(report.raise_errors)
        assert message.startswith(f"{file}: {faulty} of the {faulty + good} boxes of split val lie within the first ")
        assert "multiply them by the image's width and height" in message
        assert check_dataset(tmp_path, max_faulty_boxes=1).ok
    assert len(report.datasets["val"].images[0].boxes) == faulty + good


def test_tiny_images_have_objects_of_one_pixel(tmp_path: Path) -> None:
    write_coco(tmp_path, document=coco_document([(0, 0, 1, 1)], names=("cat",), width=8, height=8))
    write_image(tmp_path / "train" / "a.png", 8, 8)
    assert check_dataset(tmp_path).warnings == {}


def test_corners_in_place_of_width_and_height(tmp_path: Path) -> None:
    corners = [(n, n, n + 9, n + 8) for n in range(3, 20)]
    write_coco(tmp_path, document=coco_document(corners))
    assert "look like x1, y1, x2, y2" in error_of(check_dataset(tmp_path).raise_errors)
    write_coco(tmp_path, document=coco_document([*corners, (5, 5, 3, 3)]))
    assert "look like x1, y1, x2, y2" not in error_of(check_dataset(tmp_path).raise_errors)


def test_objects_below_a_pixel_are_counted_and_kept(tmp_path: Path) -> None:
    write_coco(tmp_path, document=coco_document([(5, 6, 0.5, 20), (5, 6, 1, 1)]))
    report = check_dataset(tmp_path)
    assert report.warnings == {"box_below_pixel": 1}
    assert len(report.datasets["train"].images[0].boxes) == 2


@pytest.mark.parametrize("crowd", [True, False])
def test_every_split_without_objects_is_named(tmp_path: Path, crowd: bool) -> None:
    empty = coco_document()
    for annotation in empty["annotations"]:
        annotation["iscrowd"] = 1
    if not crowd:
        empty["annotations"] = []
    write_coco(tmp_path)
    file = write_coco(tmp_path, "val", empty)
    report = check_dataset(tmp_path)
    assert (report.errors, report.warnings) == ({}, {"no_objects": 1})
    line = next(line for line in report.lines() if f"{file}: split val" in line)
    assert ("its 2 regions are marked as crowd" in line) == crowd
