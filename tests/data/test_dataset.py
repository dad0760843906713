"""The fingerprint tells targets, not formats."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from mimicdet.data.dataset import Category, DetectionDataset, ImageRecord, fingerprint


def dataset() -> DetectionDataset:
    def record(number: int, boxes: list[list[float]], labels: list[int]) -> ImageRecord:
        return ImageRecord(
            id=number,
            file=Path(f"/somewhere/{number}.png"),
            height=30,
            width=40,
            boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
            labels=np.array(labels, dtype=np.int64),
            crowd=np.zeros(len(labels), bool),
            areas=np.ones(len(labels)),
        )

    images = (record(1, [[1, 2, 3, 4], [5, 6, 7, 8]], [0, 1]), record(2, [], []))
    return DetectionDataset(Path("/a"), "train", "coco", (Category(1, "cat"), Category(2, "dog")), images)


def with_first(data: DetectionDataset, **fields: object) -> DetectionDataset:
    first = dataclasses.replace(data.images[0], **fields)  # type: ignore[arg-type]
    return dataclasses.replace(data, images=(first, *data.images[1:]))


def test_what_plays_no_part() -> None:
    data = dataset()
    same = fingerprint(data)
    first = data.images[0]
    for other in (
        dataclasses.replace(data, images=data.images[::-1], format="voc", split="x", root=Path("/b")),
        with_first(data, id=9, file=Path("/else/1.jpg"), areas=np.zeros(2)),
        with_first(data, boxes=first.boxes[::-1], labels=first.labels[::-1]),
        with_first(
            dataclasses.replace(data, categories=(Category(9, "dog"), Category(5, "cat"))), labels=1 - first.labels
        ),
        with_first(data, boxes=first.boxes + 1e-9),  # the same float32
    ):
        assert fingerprint(other) == same
    assert len(same) == 64


def test_what_plays_a_part() -> None:
    data = dataset()
    first = data.images[0]
    others = [
        with_first(data, file=Path("/somewhere/3.png")),
        with_first(data, height=31),
        with_first(data, boxes=first.boxes + 1e-5),
        with_first(data, labels=1 - first.labels),
        with_first(data, crowd=np.array([True, False])),
        dataclasses.replace(data, categories=(Category(1, "cats"), Category(2, "dog"))),
        dataclasses.replace(data, images=data.images[:1]),
    ]
    assert len({fingerprint(other) for other in [data, *others]}) == len(others) + 1
