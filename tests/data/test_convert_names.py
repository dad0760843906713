"""Conversion of names that some format cannot hold: the same comes back, or nothing is written."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from hypothesis import example, given, settings
from hypothesis import strategies as st

from mimicdet.data.check import check_dataset
from mimicdet.data.convert import convert_dataset
from mimicdet.data.dataset import DetectionDataset
from mimicdet.errors import UserError
from tests.fakes.small_sets import coco_document, error_of, write_coco, write_image

FORMATS: tuple[Literal["coco", "voc", "yolo"], ...] = ("coco", "voc", "yolo")

# Line breaks of every kind, blanks of every width, both forms of é, joiners, and signs of XML, YAML and lists
LETTERS = "aAbéE\u0301 \t\n\r\x0b\x0c\x1c\x1f\x7f\x85\u2028\u2029\xa0\u3000\u202f\u200d\u200b\ufeff\ufffe"
LETTERS += "#%&<>'\":.,-~*!|@`\\{}[]01_"
stems = st.one_of(
    st.text(LETTERS, max_size=6), st.sampled_from(["..", "classes", "a b", "-1", "train_a", "..a", "x 1"])
)
ends = st.sampled_from([".png", ".png", ".png", ".PNG", ".png ", ".xml", ".txt", ""])
files = st.builds(str.__add__, stems, ends).filter(lambda name: name not in ("", ".", ".."))
words = ["yes", "no", "nO", "oN", "TrUe", "null", "~", "012", "1e3", "0o7", "0x1", "1_0", ".5", "1.0", "2024-01-01"]
words += ["a:b", "x:", "#x", "*a", "&a", "!a", "-", "?", "|", ">", "%", "@", "`", "{}", "[]", "<<", "=", "y"]
classes = st.one_of(st.sampled_from(words), st.text(LETTERS, min_size=1, max_size=4))


def contents(datasets: dict[str, DetectionDataset], *, crowd: bool) -> Counter[Any]:
    """Counts the images of each split, whatever their names and order, with all that training sees."""
    return Counter(
        (
            {"valid": "val"}.get(split, split),
            record.file.read_bytes(),
            record.size,
            tuple(
                (tuple(box), dataset.class_names[label], hidden)
                for box, label, hidden, _ in record.objects()
                if crowd or not hidden
            ),
        )
        for split, dataset in datasets.items()
        for record in dataset.images
    )


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(files, st.sampled_from(["train", "valid"])), min_size=1, max_size=3, unique=True),
    st.lists(classes, min_size=1, max_size=3, unique_by=lambda name: " ".join(name.split())),
)
@example([("a\nb.png", "train")], ["a"])
@example([(" a.png", "train"), ("b .png", "valid")], ["a"])
@example([("é.png", "train"), ("E\u0301.png", "train"), ("e\u0301.png", "valid")], ["é", "e\u0301", "É"])
@example([(".a.png", "train"), ("..png", "train")], ["nO", "TrUe", "oFF"])
@example([("a\\b.png", "train"), ("b.png", "train")], ["a"])
@example([("  ", "train")], ["a"])
@example([("a\x1f.png", "train"), ("a\ufffe.png", "valid"), ("#a.png", "valid")], ["#a", "a # b", "- a"])
@example([("\ufeffa.png", "train")], ["a"])
@example([("a", "train")], ["a"])
def test_names_of_any_kind_come_back_or_are_refused(images: list[tuple[str, str]], names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for split in {split for _, split in images}:
            document: dict[str, Any] = {"images": [], "annotations": []}
            document["categories"] = [{"id": 3 * n, "name": name} for n, name in enumerate(names)]
            for number, (name, own) in enumerate(images):
                if own == split:
                    write_image(root / "in" / split / name, 16 + number, 20, mode="1", format="PNG")
                    document["images"].append({"id": number, "file_name": name})
                    box = [1 + number, 2, 9, 11]
                    about = {"image_id": number, "category_id": 3 * (number % len(names)), "bbox": box}
                    document["annotations"] += [about, about | {"iscrowd": 1, "bbox": [4, 4, 5, 5 + number]}]
            (root / "in" / f"{split}.json").write_text(json.dumps(document))
        source = check_dataset(root / "in") if _found(root / "in") else None
        for to in FORMATS:
            try:
                convert_dataset(root / "in", root / to, to)
            except UserError:
                assert not (root / to).exists()
                continue
            assert source is not None
            assert source.ok
            back = check_dataset(root / to)
            assert back.errors == {}
            assert "stale_name" not in back.warnings
            crowd = to != "yolo"
            assert contents(dict(back.datasets), crowd=crowd) == contents(dict(source.datasets), crowd=crowd)
            assert {d.class_names for d in back.datasets.values()} == {d.class_names for d in source.datasets.values()}


def _found(root: Path) -> bool:
    try:
        return check_dataset(root).ok
    except UserError:
        return False


def test_an_image_that_would_be_taken_for_an_annotation_is_refused(tmp_path: Path) -> None:
    write_coco(tmp_path / "in", document=coco_document(file_name="a.xml"))
    write_image(tmp_path / "in" / "images" / "a.xml", format="PNG")
    assert "its name ends in .xml" in error_of(convert_dataset, tmp_path / "in", tmp_path / "out", "coco")
    assert not (tmp_path / "out").exists()
