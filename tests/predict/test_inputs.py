"""Arrays and tensors become the same pixels as the file they came from."""

from __future__ import annotations

import resource
from io import BytesIO
from os import PathLike
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mimicdet.errors import UserError
from mimicdet.predict.detector import each_image, to_pixels

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_rounded_to_the_nearest(dtype: type):
    array = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    np.testing.assert_array_equal(to_pixels((array / 255).astype(dtype)), array)
    np.testing.assert_array_equal(to_pixels(torch.from_numpy((array / 255).astype(dtype)).permute(2, 0, 1)), array)


def test_channels_keep_their_order():
    array = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    for image in (array, Image.fromarray(array), torch.from_numpy(array).permute(2, 0, 1)):
        np.testing.assert_array_equal(to_pixels(image), array)
    np.testing.assert_array_equal(to_pixels(array[:, ::-1, ::-1]), array[:, ::-1, ::-1])
    read_only = array.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(to_pixels(read_only), array)


def test_white_shows_through_transparency():
    array = np.zeros((2, 2, 4), np.uint8)
    array[0, :, 3] = 255
    np.testing.assert_array_equal(to_pixels(array)[:, :, 0], [[0, 0], [255, 255]])


def test_bfloat16_tensors():
    assert (to_pixels(torch.ones(3, 4, 5, dtype=torch.bfloat16)) == 255).all()


@pytest.mark.parametrize("image", [memoryview(np.zeros((9, 9, 3), np.uint8)), b"\x89PNG", BytesIO(b"x")])
def test_bytes_and_open_files_are_no_images(image: Any):
    with pytest.raises(UserError, match=f"the image is of type {type(image).__name__}"):
        next(each_image(image))


class BytesPath(PathLike[Any]):
    def __fspath__(self) -> Any:
        return b"photo.jpg"


@pytest.mark.parametrize("image", ["\ud800", "x" * 10_000, BytesPath(), ""])
def test_paths_that_no_file_can_have(image: Any):
    with pytest.raises(UserError, match=r"the image (must be a path|is too long|is empty)"):
        to_pixels(image)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(1).expand(3, 100_000, 100_000),
        torch.zeros(1, dtype=torch.uint8).expand(1, 100_000, 2_000),
        np.broadcast_to(np.uint8(3), (100_000, 100_000, 3)),
        np.broadcast_to(np.float32(0), (100_000, 100_000)),
        np.broadcast_to(np.uint8(3), (100_000, 100_000, 4)),
    ],
    ids=lambda image: type(image).__name__,
)
def test_images_over_the_limit_are_refused_before_anything_is_converted(image: Any) -> None:
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=r"^image 3 is .* pixels, over the limit of 175,000,000 pixels; name its file"):
        to_pixels(image, name="image 3")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 100_000  # kB


def test_pil_images_have_the_limit_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mimicdet.predict.detector.MAX_PIXELS", 5_999)
    with pytest.raises(
        UserError, match=r"^the image is 100 x 60 pixels, over the limit of 5,999 pixels; name its file"
    ):
        to_pixels(Image.new("1", (100, 60)))
    assert to_pixels(Image.new("1", (100, 59))).shape == (59, 100, 3)


def test_a_large_array_that_needs_no_conversion_is_taken() -> None:
    large = np.empty((20_000, 10_000, 3), np.uint8)  # of which no page is touched
    assert np.shares_memory(to_pixels(large), large)
