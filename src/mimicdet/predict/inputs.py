"""What users hold in their hands -> (h, w, 3) uint8 RGB.

Files and PIL images follow the rules of ``mimicdet.data.decode``; arrays and tensors those below.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from mimicdet.data.decode import PixelRangeError, read_image, to_rgb
from mimicdet.errors import UserError

ImageLike = str | PathLike[str] | Image.Image | np.ndarray | Tensor
"""One image: a path, a PIL image, an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), or a tensor (1, h, w) or
(3, h, w). Arrays and tensors are uint8, or floats in 0..1."""


def each_image(images: ImageLike | Iterable[ImageLike]) -> Iterator[ImageLike]:
    """The images of a list, a generator or a 4-dimensional array or tensor; or the one image that was given."""
    if isinstance(images, np.ndarray | Tensor):
        yield from images if images.ndim == 4 else (images,)
    elif isinstance(images, str | PathLike | Image.Image):
        yield images
    elif isinstance(images, Iterable):
        yield from images
    else:
        raise UserError(_unknown(images))


def to_pixels(image: ImageLike, *, name: str = "the image") -> np.ndarray:
    """One image as an upright (h, w, 3) uint8 RGB array.

    Args:
        image: see ``ImageLike``. Channels are red, green, blue and, of four, transparency (white shows through).
            The channels of an array come last, those of a tensor first. OpenCV's arrays are blue, green, red: hand
            over ``array[..., ::-1]``.
        name: what error messages call it.

    Raises:
        UserError: a file that cannot be read; a shape, type or value range that no image has.
    """
    if isinstance(image, str | PathLike):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        try:
            return to_rgb(image)
        except (PixelRangeError, OSError) as error:
            raise UserError(f"{name}: {error}") from error
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise UserError(
                f"{name} is a tensor of shape {tuple(image.shape)}, which must be (3, height, width) or (1, height, "
                "width); hand over an array with the channels last as a numpy array"
            )
        tensor = image.detach().cpu()
        # bfloat16 is unknown to numpy
        array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        return _array_to_pixels(array.transpose(1, 2, 0), name)
    if isinstance(image, np.ndarray):
        array = image[..., None] if image.ndim == 2 else image
        if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
            raise UserError(
                f"{name} is an array of shape {image.shape}, which must be (height, width), or (height, width, "
                "channels) with 1, 3 or 4 channels; hand over an array with the channels first as a tensor"
            )
        return _array_to_pixels(array, name)
    raise UserError(_unknown(image, name))


def _array_to_pixels(array: np.ndarray, name: str) -> np.ndarray:
    """(h, w, 1 | 3 | 4) uint8 or float -> (h, w, 3) uint8."""
    if 0 in array.shape:
        raise UserError(f"{name} has no pixels: its height and width are {array.shape[0]} and {array.shape[1]}")
    if np.issubdtype(array.dtype, np.floating):
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # NaN too
            raise UserError(
                f"{name} holds floats from {low:g} to {high:g}, which must be in 0..1; convert to uint8 if they are in "
                "0..255, and do not normalise: the detector does that itself"
            )
        array = (array * 255 + 0.5).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise UserError(
            f"{name} holds {array.dtype} values, which must be uint8, or floats in 0..1; scale them to one of these"
        )
    if array.shape[2] == 4:
        return to_rgb(Image.fromarray(np.ascontiguousarray(array)))
    return np.ascontiguousarray(np.broadcast_to(array, (*array.shape[:2], 3)))


def _unknown(thing: object, name: str = "the image") -> str:
    return (
        f"{name} is of type {type(thing).__name__}, which must be a path, a PIL image, a numpy array, a tensor, or a "
        "list of those"
    )
