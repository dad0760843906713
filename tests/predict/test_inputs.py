"""Arrays and tensors become the same pixels as the file they came from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from mimicdet.predict.detector import to_pixels

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
