from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mimicdet.data.transform import MIN_VISIBLE, TrainTransform, resize_for_inference, resized_size


def transform(**changes: Any) -> TrainTransform:
    plain: dict[str, Any] = {
        "shorter_side": (100,),
        "shorter_side_sampling": "choice",
        "longer_side": 1000,
        "scale_jitter": (1.0, 1.0),
        "horizontal_flip": 0.0,
        "vertical_flip": 0.0,
        "quarter_turn": 0.0,
        "color_jitter": 0.0,
    }
    return TrainTransform(**{**plain, **changes})


def painted(height: int, width: int, boxes: list[tuple[int, int, int, int]]) -> np.ndarray:
    """A black image with up to three boxes, each in a colour channel of its own, so that none hides another."""
    image = np.zeros((height, width, 3), np.uint8)
    for channel, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2, channel] = 255
    return image


def found(channel: torch.Tensor) -> tuple[float, float, float, float] | None:
    """Where the bright box lies in a channel: a pixel is bright when its centre lies in the box."""
    bright = channel > 127
    if not bright.any():
        return None
    (y1, y2), (x1, x2) = (bright.any(axis).nonzero()[[0, -1], 0].tolist() for axis in (1, 0))
    return x1, y1, x2 + 1, y2 + 1


def apply(
    t: TrainTransform, image: np.ndarray, boxes: list[tuple[int, int, int, int]], seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor, list[int], list[bool]]:
    plan = t.plan(image.shape[:2], torch.Generator().manual_seed(seed))
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    pixels, out, labels, crowd = plan.apply(image, corners, np.arange(len(boxes)), np.zeros(len(boxes), bool))
    return pixels, out, labels.tolist(), crowd.tolist()


@st.composite
def boxes_in(draw: st.DrawFn, height: int, width: int) -> list[tuple[int, int, int, int]]:
    boxes = []
    for _ in range(draw(st.integers(0, 3))):
        w, h = draw(st.integers(20, width)), draw(st.integers(20, height))
        x, y = draw(st.integers(0, width - w)), draw(st.integers(0, height - h))
        boxes.append((x, y, x + w, y + h))
    return boxes


varied = transform(
    shorter_side=(60, 200),
    shorter_side_sampling="range",
    longer_side=220,
    scale_jitter=(0.5, 2.0),
    horizontal_flip=0.5,
    vertical_flip=0.5,
    quarter_turn=0.5,
)


@settings(max_examples=150, deadline=None)
@given(boxes_in(120, 160), st.integers(0, 2**40))
def test_boxes_lie_where_the_painted_boxes_are_found(boxes: list[tuple[int, int, int, int]], seed: int) -> None:
    pixels, out, labels, _ = apply(varied, painted(120, 160, boxes), boxes, seed)
    assert pixels.dtype == torch.uint8
    assert out.dtype == torch.float32
    for label, box in zip(labels, out.tolist(), strict=True):
        # Half a pixel from looking at pixel centres, a quarter for the blurred edge that a crop cut through.
        assert found(pixels[label]) == pytest.approx(box, abs=0.75)
    height, width = pixels.shape[1:]
    assert bool((out[:, :2] >= 0).all() and (out[:, 2:] <= torch.tensor([width, height])).all())
    assert bool((out[:, 2:] - out[:, :2] >= 1 - 1e-5).all())


@settings(max_examples=150, deadline=None)
@given(boxes_in(120, 160), st.integers(0, 2**40))
def test_boxes_are_dropped_by_the_share_that_is_left_of_the_painted_ones(
    boxes: list[tuple[int, int, int, int]], seed: int
) -> None:
    t = transform(shorter_side=(120,), scale_jitter=(2.0, 2.0))
    pixels, _, labels, _ = apply(t, painted(120, 160, boxes), boxes, seed)
    for label, (x1, y1, x2, y2) in enumerate(boxes):
        # An edge in the crop is off by up to half a pixel: at most 1 in 40 of each side.
        share = (pixels[label] > 127).sum().item() / (4 * (x2 - x1) * (y2 - y1))
        if abs(share - MIN_VISIBLE) > 0.03:
            assert (label in labels) == (share > MIN_VISIBLE)


def test_a_box_stays_at_exactly_the_visible_share_and_falls_just_under_it() -> None:
    """Zoom 2 on 100 x 100 shows a 50 x 50 window; boxes as wide as the window's height from its left edge on."""
    t = transform(scale_jitter=(2.0, 2.0))
    image = painted(100, 100, [(50, 50, 51, 51)])
    for seed in range(200):
        pixels, *_ = apply(t, image, [], seed)
        spot = found(pixels[0])
        if spot is not None and 2 < spot[0] < 96 and 2 < spot[1] < 96:
            break
    assert spot is not None
    left, top = 50 - round(spot[0] / 2), 50 - round(spot[1] / 2)

    def box(inside: float) -> tuple[float, ...]:
        return (left - (10 - inside), top, left + inside, top + 10)

    plan = t.plan(image.shape[:2], torch.Generator().manual_seed(seed))
    out = plan.apply(image, np.array([box(3.0), box(2.99)]), np.arange(2), np.array([True, True]))
    assert out[1].tolist() == [[0, 0, 6, 20]]
    assert out[2].tolist() == [0]
    assert out[3].tolist() == [True]


@pytest.mark.parametrize(("width", "kept"), [(2.0, True), (1.96, False)])
def test_objects_under_a_pixel_are_dropped(width: float, kept: bool) -> None:
    plan = transform(shorter_side=(50,)).plan((100, 100), torch.Generator())
    box = np.array([[10, 10, 10 + width, 50]])
    out = plan.apply(np.zeros((100, 100, 3), np.uint8), box, np.zeros(1), np.zeros(1))
    assert len(out[1]) == kept


@pytest.mark.parametrize("horizontal", [0.0, 1.0])
@pytest.mark.parametrize("vertical", [0.0, 1.0])
def test_flips_are_exact_and_pixels_untouched_where_nothing_is_to_resize(horizontal: float, vertical: float) -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 130, 3)).astype(np.uint8)
    pixels, out, *_ = apply(transform(horizontal_flip=horizontal, vertical_flip=vertical), image, [(10, 20, 40, 90)])
    expected = image[:: -1 if vertical else 1, :: -1 if horizontal else 1]
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), expected)
    x1, x2 = (90, 120) if horizontal else (10, 40)
    y1, y2 = (10, 80) if vertical else (20, 90)
    assert out.tolist() == [[x1, y1, x2, y2]]


def test_a_quarter_turn_is_exact_and_follows_the_flips() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 130, 3)).astype(np.uint8)
    image[20:90, 10:40] = 255
    for flip in (0.0, 1.0):
        pixels, out, *_ = apply(transform(horizontal_flip=flip, quarter_turn=1.0), image, [(10, 20, 40, 90)])
        expected = np.rot90(image[:, ::-1] if flip else image)
        np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), expected)
        assert pixels.is_contiguous()
        x1, y1, x2, y2 = (int(v) for v in out[0])
        assert (x2 - x1, y2 - y1) == (70, 30)
        assert (expected[y1:y2, x1:x2] == 255).all()


def test_all_eight_orientations_are_drawn_alike_often() -> None:
    t = transform(horizontal_flip=0.5, vertical_flip=0.5, quarter_turn=0.5)
    image = np.zeros((100, 100, 3), np.uint8)
    boxes = [(0, 0, 40, 10)]
    ways = [tuple(apply(t, image, boxes, seed)[1][0].tolist()) for seed in range(400)]
    assert len(set(ways)) == 8
    assert all(25 < ways.count(way) < 80 for way in set(ways))


def test_boxes_scale_by_the_exact_ratio_of_each_axis() -> None:
    pixels, out, *_ = apply(transform(shorter_side=(101,)), np.zeros((333, 500, 3), np.uint8), [(7, 5, 401, 322)])
    assert pixels.shape == (3, 101, 152)
    x, y = 152 / 500, 101 / 333
    np.testing.assert_allclose(out.numpy(), [[7 * x, 5 * y, 401 * x, 322 * y]], rtol=1e-6)


def test_zooming_out_shows_the_whole_image_at_any_place_of_a_black_canvas() -> None:
    t = transform(scale_jitter=(0.5, 0.5), color_jitter=0.2)
    corners = set()
    for seed in range(300):
        pixels, out, *_ = apply(t, np.full((100, 120, 3), 100, np.uint8), [(0, 0, 120, 100)], seed)
        assert pixels.shape == (3, 100, 120)
        assert [found((pixels[0] > 0) * 255)] == [tuple(box) for box in out.tolist()]
        assert (out[:, 2:] - out[:, :2]).tolist() == [[60, 50]]
        corners.add(tuple(out[0, :2].tolist()))
    assert min(x for x, _ in corners) <= 1
    assert max(x for x, _ in corners) >= 59
    assert min(y for _, y in corners) <= 1
    assert max(y for _, y in corners) >= 49


def test_zooming_in_reaches_every_edge() -> None:
    t = transform(scale_jitter=(2.0, 2.0))
    corners = [(0, 0, 20, 20), (80, 0, 100, 20), (0, 80, 20, 100)]
    seen = {label for seed in range(40) for label in apply(t, painted(100, 100, corners), corners, seed)[2]}
    assert seen == {0, 1, 2}


def test_every_place_of_the_image_on_the_canvas_is_drawn() -> None:
    t = transform(shorter_side=(8,), scale_jitter=(0.5, 0.5))
    places = {
        tuple(apply(t, np.zeros((80, 80, 3), np.uint8), [(0, 0, 80, 80)], seed)[1][0, :2].tolist())
        for seed in range(500)
    }
    assert places == {(x, y) for x in range(5) for y in range(5)}


def test_the_two_flips_are_drawn_apart() -> None:
    t = transform(horizontal_flip=0.5, vertical_flip=0.5)
    image = np.zeros((100, 100, 3), np.uint8)
    ways = [tuple(apply(t, image, [(0, 0, 40, 40)], seed)[1][0, :2].tolist()) for seed in range(200)]
    assert {ways.count(way) > 25 for way in set(ways)} == {True}
    assert set(ways) == {(0, 0), (60, 0), (0, 60), (60, 60)}


def test_sizes_are_drawn_from_the_list_or_the_range() -> None:
    image = np.zeros((100, 150, 3), np.uint8)

    def heights(sampling: str) -> set[int]:
        t = transform(shorter_side=(40, 46, 43), shorter_side_sampling=sampling)
        return {apply(t, image, [], seed)[0].shape[1] for seed in range(150)}

    assert heights("choice") == {40, 43, 46}
    assert heights("range") == set(range(40, 47))


def test_zoom_is_as_often_in_as_out() -> None:
    t = transform(scale_jitter=(0.5, 2.0))
    image = painted(100, 100, [(45, 45, 55, 55)])
    widths = [
        float(out[0, 2] - out[0, 0]) for seed in range(400) if len(out := apply(t, image, [(0, 0, 100, 100)], seed)[1])
    ]
    # Zoomed in, the whole-image box is cut to the canvas or dropped: it has the full width.
    small = sum(width < 99.5 for width in widths)
    assert 140 < small < 260


def test_everything_random_comes_from_the_generator_alone() -> None:
    t = transform(
        shorter_side=(60, 90), scale_jitter=(0.5, 2.0), horizontal_flip=0.5, vertical_flip=0.5, color_jitter=0.4
    )
    image = np.random.default_rng(0).integers(0, 256, (100, 130, 3)).astype(np.uint8)
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[union-attr]
    first, again, other = (apply(t, image, [(10, 20, 90, 90)], seed) for seed in (1, 1, 2))
    after = torch.get_rng_state(), np.random.get_state()[1].tobytes()  # type: ignore[union-attr]
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not (first[0].shape == other[0].shape and torch.equal(first[0], other[0]))


def test_one_setting_does_not_change_what_another_draws() -> None:
    image = np.random.default_rng(0).integers(0, 256, (100, 130, 3)).astype(np.uint8)
    plain = transform(scale_jitter=(0.5, 2.0), horizontal_flip=0.5)
    colored = transform(scale_jitter=(0.5, 2.0), horizontal_flip=0.5, color_jitter=0.4)
    for seed in range(20):
        a, b = apply(plain, image, [(10, 20, 90, 90)], seed), apply(colored, image, [(10, 20, 90, 90)], seed)
        assert torch.equal(a[1], b[1])
        assert not torch.equal(a[0], b[0])


def test_colors_of_a_grey_image_vary_in_brightness_only_and_within_the_stated_fraction() -> None:
    """Contrast pulls towards the mean and saturation towards grey: a flat grey image is both already."""
    t = transform(color_jitter=0.5)
    values = []
    for seed in range(100):
        pixels = apply(t, np.full((100, 100, 3), 100, np.uint8), [], seed)[0]
        assert pixels.min() == pixels.max()
        values.append(int(pixels[0, 0, 0]))
    assert 48 <= min(values) < 60
    assert 140 < max(values) <= 150


def test_contrast_and_saturation_vary_too() -> None:
    """Brightness alone keeps the ratio of two pixels; brightness and contrast that of differences."""
    image = np.zeros((100, 100, 3), np.uint8)
    image[:, :50] = (200, 60, 60)
    image[:, 50:] = (20, 30, 20)
    contrasts, saturations = [], []
    for seed in range(60):
        left, right = apply(transform(color_jitter=0.2), image, [], seed)[0][:, 0, [0, -1]].float().T
        grey = torch.tensor([0.2989, 0.587, 0.114])  # what saturation leaves alone
        difference = (grey @ (left - right)).item()
        contrasts.append(difference / (grey @ (left + right)).item())
        saturations.append((left.max() - left.min()).item() / difference)
    assert max(contrasts) > 1.2 * min(contrasts)
    assert max(saturations) > 1.2 * min(saturations)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1500), st.integers(1, 2000))
def test_sizes_keep_the_aspect_within_both_limits(height: int, width: int, shorter: int, longer: int) -> None:
    new_h, new_w = resized_size(height, width, shorter_side=shorter, longer_side=longer)
    scale = min(shorter / min(height, width), longer / max(height, width))
    assert abs(new_h - height * scale) <= 0.5 + 1e-9 or new_h == 1
    assert abs(new_w - width * scale) <= 0.5 + 1e-9 or new_w == 1
    assert max(new_h, new_w) <= max(longer, 1)
    assert min(new_h, new_w) <= max(shorter, 1)
    assert min(new_h, new_w) == shorter or max(new_h, new_w) == longer


@pytest.mark.parametrize(
    ("size", "expected"), [((480, 640), (800, 1067)), ((427, 640), (800, 1199)), ((300, 900), (444, 1333))]
)
def test_sizes_of_the_paper(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert resized_size(*size, shorter_side=800, longer_side=1333) == expected


@pytest.mark.parametrize("shorter", [37, 96, 250])
def test_pixels_equal_pillows_antialiased_bilinear_ones(shorter: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, (120, 160, 3)).astype(np.uint8)
    out = resize_for_inference(image, shorter, 1000)
    assert out.dtype == torch.uint8
    assert out.is_contiguous()
    _, height, width = out.shape
    assert (height, width) == resized_size(120, 160, shorter_side=shorter, longer_side=1000)
    expected = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    # Either rounds its weights, and after each axis.
    difference = np.abs(out.permute(1, 2, 0).numpy().astype(int) - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.2


def test_read_only_and_mirrored_arrays_are_taken() -> None:
    image = np.random.default_rng(2).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    expected = torch.from_numpy(image[:, ::-1].copy()).permute(2, 0, 1)
    image.flags.writeable = False
    assert torch.equal(resize_for_inference(image[:, ::-1], 20, 30), expected)


@pytest.mark.parametrize(
    "fault", [{"shorter_side_sampling": "any"}, {"shorter_side": ()}, {"scale_jitter": (2.0, 0.5)}]
)
def test_senseless_settings_are_refused(fault: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="shorter_side"):
        transform(**fault)
