"""The rules for boxes, against a literal box-by-box version, and the bookkeeping around them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mimicdet.data import clean as module
from mimicdet.data.clean import clean, clean_boxes
from mimicdet.data.dataset import Category
from mimicdet.data.faults import EXAMPLES, FaultKind, FaultLog
from mimicdet.data.raw import RawImage, RawSplit, Source
from mimicdet.errors import UserError

LIMIT = 2.0**22


def literal(box: tuple[float, ...], height: int, width: int) -> tuple[int, list[float]]:
    """The rules of the module's docstring, one after the other, for one box."""
    if any(math.isnan(v) or math.isinf(v) for v in box):
        return module.NOT_FINITE, []
    x1, y1, x2, y2 = (round(v * 2**30) / 2**30 if abs(v) < LIMIT else v for v in box)
    if x2 < x1 or y2 < y1:
        return module.INVERTED, []
    if x2 - x1 < 0.01 or y2 - y1 < 0.01:
        return module.NO_AREA, []
    inside = [min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)]
    if inside[2] - inside[0] < 0.01 or inside[3] - inside[1] < 0.01:
        return module.OUTSIDE, []
    over_x = max(abs(x1 - inside[0]), abs(x2 - inside[2]))
    over_y = max(abs(y1 - inside[1]), abs(y2 - inside[3]))
    if over_x > max(2, width / 100) or over_y > max(2, height / 100):
        return module.OVERFLOW, inside
    return (module.CLIPPED if max(over_x, over_y) > 0.01 else module.KEEP), inside


edges = st.one_of(
    st.floats(),
    st.floats(-50, 600),
    st.integers(-5, 520).map(float),
    st.sampled_from([0.0, -0.0, 0.005, 0.01, -0.01, 499.995, 500.0, 500.01, 502.0, 505.0, 1e300, -1e300, 2.0**22]),
)


@given(st.lists(st.tuples(edges, edges, edges, edges), max_size=6), st.integers(1, 500), st.integers(1, 500))
@example([(0.0, 0.0, 1e308, 1e308), (-1e308, 0.0, 1e308, 5.0)], 10, 10)
@example([(0.3 - 0.1 - 0.2, 1.0, 5.0, 5.0)], 10, 10)
def test_rules_match_the_literal_version(boxes: list[tuple[float, ...]], height: int, width: int) -> None:
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    clipped, verdict = clean_boxes(array, np.tile([height, width], (len(boxes), 1)))
    for box, got, kind in zip(boxes, clipped, verdict.tolist(), strict=True):
        expected_kind, expected = literal(box, height, width)
        assert kind == expected_kind
        if expected:
            assert got.tolist() == expected
            assert 0 <= got[0] < got[2] <= width
            assert 0 <= got[1] < got[3] <= height
            x1, y1, x2, y2 = got.astype(np.float32)
            assert x1 < x2  # float32, which training computes in, still tells the edges apart
            assert y1 < y2
            assert not np.signbit(got).any()


@given(st.lists(st.tuples(edges, edges, edges, edges), max_size=6), st.integers(1, 500), st.integers(1, 500))
def test_clean_boxes_are_left_alone(boxes: list[tuple[float, ...]], height: int, width: int) -> None:
    array = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    sizes = np.tile([height, width], (len(boxes), 1))
    once, verdict = clean_boxes(array, sizes)
    kept = verdict <= module.OVERFLOW
    twice, again = clean_boxes(once[kept], sizes[kept])
    assert twice.tobytes() == once[kept].tobytes()
    assert (again == module.KEEP).all()


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((1, 1, 40, 30), module.KEEP),
        ((-0.01, 0, 5, 5), module.KEEP),
        ((-0.02, 0, 5, 5), module.CLIPPED),
        ((0, 0, 42, 5), module.CLIPPED),
        ((0, 0, 42.1, 5), module.OVERFLOW),
        ((1, 1, 1, 5), module.NO_AREA),
        ((1, 1, 1.009, 5), module.NO_AREA),
        ((50, 1, 50, 5), module.NO_AREA),
        ((5, 1, 4, 5), module.INVERTED),
        ((5, math.nan, 4, 5), module.NOT_FINITE),
        ((5, 1, math.inf, 5), module.NOT_FINITE),
        ((40, 1, 50, 5), module.OUTSIDE),
        ((-9, -9, 0, 0), module.OUTSIDE),
    ],
)
def test_examples_on_an_image_of_40_x_30(box: tuple[float, ...], kind: int) -> None:
    _, verdict = clean_boxes(np.array([box], dtype=np.float64), np.array([[30, 40]]))
    assert verdict.tolist() == [kind]


def test_large_images_allow_one_percent() -> None:
    boxes = np.array([[0, 0, 1010, 10], [0, 0, 1010.1, 10]], dtype=np.float64)
    _, verdict = clean_boxes(boxes, np.array([[500, 1000]] * 2))
    assert verdict.tolist() == [module.CLIPPED, module.OVERFLOW]


def raw_split(*, recorded: tuple[int, int] | None = (30, 40), fractions: bool = False) -> RawSplit:
    """Images a.png and b.png of 40 x 30."""
    folder = Path("/data")
    source = Source("coco", folder, "train", folder / "train.json", (folder,))
    raw = RawSplit(source, (Category(1, "cat"), Category(2, "dog")), fractions=fractions)
    for number, name in enumerate("ab", start=1):
        raw.images.append(RawImage(number, folder / f"{name}.png", recorded, source.annotations, f"image {number}"))
    return raw


def add(raw: RawSplit, owner: int, box: tuple[float, ...], **more: float) -> None:
    raw.add(
        owner=owner,
        box=box,
        label=int(more.get("label", 0)),
        item=f"annotation {len(raw.boxes)}",
        area=more.get("area", math.nan),
        crowd=bool(more.get("crowd", 0)),
    )


def cleaned(raw: RawSplit, sizes: object = None, share: float = 1.0) -> tuple[module.DetectionDataset, FaultLog]:
    log = FaultLog()
    return clean(raw, sizes or [(30, 40)] * 2, log, max_faulty_boxes=share), log  # type: ignore[arg-type]


def test_objects_stay_with_their_image_in_their_order() -> None:
    raw = raw_split()
    for owner, x in ((1, 1), (0, 2), (1, 3), (0, 4), (1, 5)):
        add(raw, owner, (x, 0, x + 1, 1), label=x % 2, crowd=x == 3)
    dataset, log = cleaned(raw)
    assert [image.boxes[:, 0].tolist() for image in dataset.images] == [[2, 4], [1, 3, 5]]
    assert dataset.images[1].labels.tolist() == [1, 1, 1]
    assert dataset.images[1].crowd.tolist() == [False, True, False]
    assert dataset.images[0].boxes.dtype == np.float64
    assert dataset.images[0].labels.dtype == np.int64
    assert not log.counts


def test_many_objects_keep_their_order() -> None:
    raw = raw_split()
    for n in range(200):
        add(raw, n % 2, (n / 10, 0, n / 10 + 1, 1))
    dataset, _ = cleaned(raw)
    for image in dataset.images:
        assert (np.diff(image.boxes[:, 0]) > 0).all()


def test_areas_are_the_recorded_ones_unless_missing_or_clipped() -> None:
    raw = raw_split()
    for area in (7.5, math.nan, -1.0, 0.0, math.inf):
        add(raw, 0, (0, 0, 4, 5), area=area)
    add(raw, 1, (-1, 0, 4, 5), area=25.0)
    add(raw, 1, (-1, 0, 4, 5), area=3.0)
    dataset, _ = cleaned(raw)
    assert dataset.images[0].areas.tolist() == [7.5, 20, 20, 20, 20]
    assert dataset.images[1].areas.tolist() == [20, 3]


def test_fractions_become_pixels() -> None:
    raw = raw_split(recorded=None, fractions=True)
    add(raw, 0, (0.25, 0.1, 0.5, 1.0))
    add(raw, 1, (0.25, 0.1, 0.5, 1.0))
    dataset, _ = cleaned(raw, [(30, 40), (100, 200)])
    assert dataset.images[0].boxes.tolist() == [[10, 3, 20, 30]]
    assert dataset.images[1].boxes.tolist() == [[50, 10, 100, 100]]


def test_faulty_boxes_are_counted_by_kind_with_the_first_few_named() -> None:
    raw = raw_split()
    for _ in range(EXAMPLES + 3):
        add(raw, 0, (5, 5, 4, 6))
    add(raw, 1, (0, 0, 4, math.nan))
    add(raw, 1, (0, 0, 4, 4))
    dataset, log = cleaned(raw)
    assert log.counts == {FaultKind.BOX_INVERTED: EXAMPLES + 3, FaultKind.BOX_NOT_FINITE: 1}
    assert len(log.examples[FaultKind.BOX_INVERTED]) == EXAMPLES
    sentence = log.examples[FaultKind.BOX_INVERTED][0].sentence()
    assert sentence == (
        "/data/train.json: annotation 0: the box x1, y1, x2, y2 = 5, 5, 4, 6 of a.png ends before it begins"
    )
    assert [len(image.labels) for image in dataset.images] == [0, 1]


def test_share_of_faulty_boxes_is_limited() -> None:
    raw = raw_split()
    for _ in range(9):
        add(raw, 0, (1, 1, 41, 5))  # clipped by one pixel: no fault
    add(raw, 0, (1, 1, 1, 5))
    assert FaultKind.TOO_MANY_FAULTY_BOXES not in cleaned(raw, share=0.1)[1].counts
    fault = cleaned(raw, share=0.09)[1].first_error()
    assert fault is not None
    assert fault.kind is FaultKind.TOO_MANY_FAULTY_BOXES
    assert "1 of the 10 boxes of split train are faulty (1 box_no_area; for example annotation 9)" in fault.problem
    assert "--data.max_faulty_boxes" in fault.problem


def test_sizes_are_compared_upright() -> None:
    for recorded, reason in (((40, 30), "EXIF"), ((31, 40), "correct the recorded size")):
        _, log = cleaned(raw_split(recorded=recorded))
        assert log.counts == {FaultKind.WRONG_SIZE: 2}
        fault = log.examples[FaultKind.WRONG_SIZE][0]
        assert fault.item == "image 1"
        assert reason in fault.problem
        assert "40 x 30" in fault.problem


def test_unreadable_images_leave_with_their_objects() -> None:
    raw = raw_split()
    add(raw, 0, (1, 1, 5, 5))
    add(raw, 1, (2, 2, 5, 5))
    dataset, log = cleaned(raw, [UserError("/data/a.png: is damaged; copy it"), (30, 40)])
    assert [image.id for image in dataset.images] == [2]
    assert dataset.images[0].boxes.tolist() == [[2, 2, 5, 5]]
    assert log.examples[FaultKind.UNREADABLE_IMAGE][0].sentence() == "/data/a.png: is damaged; copy it"


def test_doubled_objects_are_counted_and_kept() -> None:
    raw = raw_split()
    for owner, label in ((0, 0), (0, 1), (1, 0), (0, 0), (0, 0)):
        add(raw, owner, (1, 1, 5, 5), label=label)
    dataset, log = cleaned(raw)
    assert log.counts == {FaultKind.DUPLICATE_OBJECT: 2}
    assert {fault.item for fault in log.examples[FaultKind.DUPLICATE_OBJECT]} == {"annotation 3", "annotation 4"}
    assert [len(image.labels) for image in dataset.images] == [4, 1]


def test_no_images_and_no_objects() -> None:
    raw = raw_split()
    raw.images.clear()
    dataset, log = cleaned(raw, [])
    assert dataset.images == ()
    assert not log.counts
    dataset, _ = cleaned(raw_split())
    assert dataset.images[0].boxes.shape == (0, 4)
