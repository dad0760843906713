"""Small files of tens of thousands of entries: read in a time that grows with their number, not with its square.

Processor time is measured, so that a busy machine does not count, and the limits are several times what it takes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mimicdet.data.check import check_dataset
from mimicdet.data.dataset import match_classes
from mimicdet.data.splits import load_dataset
from mimicdet.errors import nearest
from tests.fakes.small_sets import coco_document, voc_xml, write_coco, write_image, write_voc, write_yolo

NUMBERED = [f"class number {n:06d}" for n in range(30_000)]
MANY = ("cat", "dog", *NUMBERED)


def coco_classes(root: Path) -> None:
    write_coco(root, document=coco_document(names=MANY))


def coco_headings(root: Path) -> None:
    document = coco_document(names=("cat", "dog"))
    for n in range(12_000):
        document["categories"] += [
            {"id": 100_000 + n, "name": f"top {n}"},
            {"id": 200_000 + n, "name": f"low {n}", "supercategory": f"top {n}"},
        ]
    write_coco(root, document=document)


def coco_field_twice(root: Path) -> None:
    write_coco(root)
    fields = ",".join(f'"k{n}":1' for n in range(50_000))
    text = (root / "train.json").read_text().rstrip()
    (root / "train.json").write_text(f'{text[:-1]},"x":{{{fields},"k49999":2}}}}')


def coco_other_names(root: Path) -> None:
    write_coco(root, document=coco_document(names=MANY))
    write_coco(root, "val", coco_document(names=("cat", "dog", *(f"klasse {n}" for n in range(30_000)))))


def coco_splits(root: Path) -> None:
    document = coco_document(names=("cat", "dog"))
    document["categories"][0]["supercategory"] = "dog"
    write_coco(root, document=document)
    for year in range(1900, 2100):
        for split in ("val", "test"):
            (root / f"{split}{year}.json").write_text(json.dumps(document))


def yolo_classes(root: Path) -> None:
    write_yolo(root, names=json.dumps(["cat", "dog", *NUMBERED[:5000]]))
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text + "".join(f"val{year}: images/train\n" for year in range(2000, 2040)))


def voc_class_file(root: Path) -> None:
    write_voc(root)
    (root / "classes.txt").write_text("\n".join(MANY))


def voc_unknown_names(root: Path) -> None:
    write_voc(root, voc_xml([(name, (1, 1, 20, 20)) for name in NUMBERED[:1500]]))
    (root / "classes.txt").write_text("\n".join(f"klasse {n}" for n in range(1500)))


def voc_lists(root: Path) -> None:
    lists = root / "ImageSets" / "Main"
    for folder in (lists, root / "Annotations"):
        folder.mkdir(parents=True)
    for n in range(20):
        write_image(root / "JPEGImages" / f"{n}.png", 40, 30)
        (root / "Annotations" / f"{n}.xml").write_text(voc_xml([("cat", (1, 1, 20, 20))], filename=f"{n}.png"))
    for n in range(300):
        (lists / f"list{n}.txt").write_text(f"{n % 20}\n")


CASES = (
    (coco_classes, "unused_category"),
    (coco_headings, "heading"),
    (coco_field_twice, "broken_file"),
    (coco_other_names, "categories_differ"),
    (coco_splits, "missing_image"),
    (yolo_classes, "unused_category"),
    (voc_class_file, "unused_category"),
    (voc_unknown_names, "unknown_category"),
    (voc_lists, ""),
)


@pytest.mark.parametrize(("build", "fault"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_many_entries_take_no_longer_than_reading_them(
    tmp_path: Path, build: Callable[[Path], None], fault: str
) -> None:
    build(tmp_path / "set")
    start = time.process_time()
    report = check_dataset(tmp_path / "set", verify_images=False, progress=False)
    assert time.process_time() - start < 3
    assert not fault or fault in report.errors | report.warnings


def test_a_model_of_many_classes_is_matched_at_once(tmp_path: Path) -> None:
    coco_classes(tmp_path / "set")
    dataset = load_dataset(tmp_path / "set")
    start = time.process_time()
    matched = match_classes(dataset, dataset.categories[::-1])
    assert time.process_time() - start < 1
    assert matched.class_names == MANY[::-1]
    assert matched.images[0].labels.tolist() == [len(MANY) - 1 - label for label in dataset.images[0].labels.tolist()]


def test_the_nearest_of_many_names() -> None:
    start = time.process_time()
    for number in range(0, 300, 30):
        assert nearest(f"klass nummber {number:06d}", MANY) is not None
    assert nearest("Class Number 017000", MANY) == "class number 017000"
    assert nearest("ab" * 30_000 + "c", ["ab" * 30_000 + "d", "ba" * 30_000]) == "ab" * 30_000 + "d"
    assert nearest("dgo", MANY) == "dog"
    assert time.process_time() - start < 1
