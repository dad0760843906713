"""Pictures: what must be seen is found in the pixels."""

from __future__ import annotations

import time
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mimicdet.report.draw import _Occupied, class_color, contact_sheet, draw_boxes

NAMES = ["cat", "a class with a very long name indeed", "собака"]
GREY = np.full((700, 900, 3), 128, np.uint8)


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def has_color(region: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((region == color).all(-1).any())


def test_frame_lies_on_the_edges_of_the_box_in_the_colour_of_the_class():
    image = GREY.copy()
    picture = draw_boxes(image, np.array([[200, 300, 500, 600]]), np.array([2]), class_names=NAMES, legend=False)
    assert (image == 128).all(), "the image itself was drawn on"
    assert picture.size == (900, 700)
    found = pixels(picture)
    for edge in (found[300:302, 250:450], found[598:600, 250:450], found[350:550, 200:202], found[350:550, 498:500]):
        assert (edge == class_color(2)).all()
    assert (found[310:590, 210:490] == 128).all(), "the inside stays free"
    assert (found[620:, :] == 128).all()
    assert has_color(found[265:299, 200:300], class_color(2)), "the caption stands above the box"


def test_small_images_are_enlarged_and_their_boxes_with_them():
    picture = draw_boxes(GREY[:50, :100], np.array([[10, 10, 40, 40]]), np.array([0]), class_names=NAMES, legend=False)
    assert picture.size == (600, 300)
    assert (pixels(picture)[60:62, 100:200] == class_color(0)).all(-1).mean() > 0.5


def test_truth_is_dashed_white_and_colour():
    picture = draw_boxes(
        GREY,
        np.zeros((0, 4)),
        np.zeros(0),
        class_names=NAMES,
        truth_boxes=np.array([[200, 300, 500, 600]]),
        truth_labels=np.array([1]),
        legend=False,
    )
    edge = pixels(picture)[300, 205:495]
    assert 0.3 < (edge == 255).all(-1).mean() < 0.7
    assert 0.3 < (edge == class_color(1)).all(-1).mean() < 0.7


def test_legend_names_every_class_that_occurs_below_the_picture():
    boxes = np.array([[10, 10, 60, 60], [100, 100, 300, 300]])
    bare = draw_boxes(GREY, boxes, np.array([0, 2]), class_names=NAMES, scores=np.array([0.9, 0.8]), legend=False)
    whole = draw_boxes(GREY, boxes, np.array([0, 2]), class_names=NAMES, scores=np.array([0.9, 0.8]))
    assert whole.width == bare.width
    assert whole.height > 700
    np.testing.assert_array_equal(pixels(whole)[:700], pixels(bare))
    strip = pixels(whole)[700:]
    assert has_color(strip, class_color(0))
    assert has_color(strip, class_color(2))
    assert not has_color(strip, class_color(1))


@pytest.mark.parametrize(
    "boxes",
    [
        np.zeros((0, 4)),
        np.array([[5, 5, 5, 5], [-50, -50, 2000, 2000], [899, 699, 950, 750], [0, 0, 1, 1]]),
        np.random.default_rng(0).uniform(0, 700, (300, 4)).reshape(-1, 2, 2).cumsum(1).reshape(-1, 4),
    ],
    ids=["none", "degenerate and outside", "hundreds"],
)
@pytest.mark.parametrize("shape", [(700, 900), (1, 1), (3, 400)])
def test_any_boxes_on_any_image(boxes: np.ndarray, shape: tuple[int, int]):
    labels, scores = np.arange(len(boxes)) % 3, np.linspace(0, 1, len(boxes))
    image = np.zeros((*shape, 3), np.uint8)
    picture = draw_boxes(image, boxes, labels, class_names=NAMES, scores=scores, truth_boxes=boxes, truth_labels=labels)
    assert picture.mode == "RGB"


def test_the_best_score_is_drawn_last():
    box = np.array([[200.0, 300, 500, 600]])
    boxes, labels = np.repeat(box, 2, 0), np.array([0, 2])
    for scores, best in (([0.9, 0.1], 0), ([0.1, 0.9], 2)):
        picture = draw_boxes(GREY, boxes, labels, class_names=NAMES, scores=np.array(scores), legend=False)
        assert (pixels(picture)[599, 250:450] == class_color(best)).all()


def test_crowded_pictures_have_narrow_captions():
    """With many boxes no caption is wider than its box; with few, a name may be."""
    x, y = np.meshgrid(np.arange(10) * 60.0 + 100, np.arange(6) * 60.0 + 100)
    corner = np.stack([x, y], -1).reshape(-1, 2)
    boxes = np.concatenate([corner, corner + 20], 1)
    between = (slice(80, 460), slice(124, 155))  # the gap between the first and the second column

    def covered(n: int) -> bool:
        picture = draw_boxes(GREY, boxes[:n], np.ones(n, int), class_names=["", "fox"], scores=np.ones(n))
        return has_color(pixels(picture)[between], class_color(1))

    assert covered(1)
    assert not covered(60)


def test_colours_of_the_first_21_classes_differ():
    colors = [class_color(i) for i in range(21)]
    assert all(max(abs(a - b) for a, b in zip(p, q, strict=True)) > 20 for p, q in combinations(colors, 2))
    assert all(0 <= channel <= 255 for i in range(100) for channel in class_color(i))


rectangles = st.tuples(*[st.floats(-50, 300)] * 2, *[st.floats(1, 120)] * 2).map(
    lambda r: (r[0], r[1], r[0] + r[2], r[1] + r[3])
)


@given(st.lists(rectangles, max_size=25), rectangles)
def test_occupied_equals_comparing_with_every_rectangle(taken: list[tuple], new: tuple):
    occupied = _Occupied(cell=40)
    for r in taken:
        occupied.add(r)
    literal = not any(new[0] < r[2] and r[0] < new[2] and new[1] < r[3] and r[1] < new[3] for r in taken)
    assert occupied.free(new) == literal


def test_contact_sheet_fits_every_picture_into_its_cell():
    pictures = [
        Image.new("RGB", size, color)
        for size, color in [((100, 50), (255, 0, 0)), ((50, 100), (0, 255, 0)), ((640, 640), (0, 0, 255))]
    ]
    sheet = contact_sheet(pictures, titles=["one", "two", "x" * 500], cell=200)
    assert sheet.width == 16 + 2 * (200 + 16)
    found = pixels(sheet)
    counts = {c: int((found == c).all(-1).sum()) for c in [(255, 0, 0), (0, 255, 0), (0, 0, 255)]}
    assert counts == {(255, 0, 0): 200 * 100, (0, 255, 0): 100 * 200, (0, 0, 255): 200 * 200}
    assert contact_sheet(pictures[:1]).width == 640 + 2 * 16
    taller = contact_sheet(pictures, titles=["one\nof two lines", "two", "three"], cell=200)
    assert taller.height == sheet.height + 2 * 34  # in both rows
    assert np.array_equal(pixels(taller)[-216:], pixels(sheet)[-216:])


def test_contact_sheet_refuses_nothing_and_missing_titles():
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])
    with pytest.raises(ValueError, match="as many titles"):
        contact_sheet([Image.new("RGB", (9, 9))], titles=["a", "b"])


def test_of_a_long_name_the_first_letters_are_drawn() -> None:
    """A name of any length is measured letter by letter, which took seconds."""
    began = time.process_time()
    boxes, scores = np.array([[100, 100, 880, 600]]), np.array([0.5])
    pictures = [
        draw_boxes(GREY, boxes, np.array([0]), class_names=[name], scores=scores)
        for name in ("x" * 59 + "y" * 10_000, "x" * 59 + "z" * 10_000, "x" * 59 + "…", "x" * 60)
    ]
    assert time.process_time() - began < 2
    assert (pixels(pictures[0]) == pixels(pictures[1])).all()
    assert (pixels(pictures[0]) == pixels(pictures[2])).all()
    assert (pixels(pictures[0]) != pixels(pictures[3])).any(), "60 letters are drawn in full"
    sheet = contact_sheet([pictures[0]], titles=["x" * 20_000])
    assert time.process_time() - began < 2
    assert sheet.width < 700
