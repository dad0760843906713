"""From a padded batch to detections in the pixels of the original images.

B images, H W the padded canvas, N detections of an image.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from mimicdet.config import InferenceSettings
from mimicdet.errors import UserError
from mimicdet.inference.decode import Detections, decode
from mimicdet.inference.flips import detect_in_views
from mimicdet.models.detector import DetectionModel, Predictions

_WAY_OUT = "lower the batch size, or the shorter and longer side that images are resized to"

Predict = Callable[[Tensor, Tensor | None], Predictions]
"""Images (B, 3, H, W) and their sizes (B, 2), or None where each fills the canvas -> predictions."""


def detect(model: DetectionModel, images: Tensor, sizes: Tensor, inference: InferenceSettings) -> list[Detections]:
    """Returns the detections of each of B images, in pixels of the resized image.

    Args:
        model: in evaluation mode and on the device of ``images``.
        images: (B, 3, H, W) uint8 RGB, or float in 0..1.
        sizes: (B, 2) int64, height and width of each image inside the canvas.

    Raises:
        UserError: the device's memory does not hold the batch.
    """

    def predict(images: Tensor, sizes: Tensor | None) -> Predictions:
        predictions: Predictions = model(images, sizes, dense=inference.dense, top=inference.positions)
        return predictions

    return detect_with(predict, images, sizes, inference)


def detect_with(predict: Predict, images: Tensor, sizes: Tensor, inference: InferenceSettings) -> list[Detections]:
    """Detects with the predictions of any function, such as a T-head's; arguments as for :func:`detect`."""
    seen = sizes_or_none(images, sizes)
    with memory_errors_explained(images):
        return detect_in_views(lambda view: decode(predict(view, seen), sizes, inference), images, sizes, inference)


def sizes_or_none(images: Tensor, sizes: Tensor) -> Tensor | None:
    """Returns None where every image fills the canvas: a model need not keep padding at zero that is not there.

    On the CPU only: elsewhere asking would wait for the device.
    """
    fills = sizes.device.type == "cpu" and bool((sizes == sizes.new_tensor(images.shape[2:])).all())
    return None if fills else sizes


def to_original_pixels(boxes: Tensor, size: tuple[int, int], original_size: tuple[int, int]) -> Tensor:
    """Maps boxes (N, 4) in a resized image to (N, 4) float64 in the original one, clipped to it.

    Each axis has its own exact ratio: the resized sides are whole numbers, so that the two ratios differ a little.
    ``size`` and ``original_size`` are height, width.
    """
    (height, width), (original_height, original_width) = size, original_size
    ratio = boxes.new_tensor([original_width / width, original_height / height], dtype=torch.float64).repeat(2)
    limit = boxes.new_tensor([original_width, original_height], dtype=torch.float64).repeat(2)
    return (boxes.double() * ratio).clamp(min=0).minimum(limit)


@contextmanager
def memory_errors_explained(
    images: Tensor, device: torch.device | None = None, way_out: str = _WAY_OUT, objects: str = ""
) -> Iterator[None]:
    """Turns a lack of memory while ``images`` (B, 3, H, W) are worked on into a sentence with the way out.

    It is the memory of ``device``; None is that of ``images``. ``objects`` says what else the batch holds.
    """
    try:
        yield
    except RuntimeError as error:  # the CPU's allocator raises a plain one
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        batch, _, height, width = images.shape
        raise UserError(
            f"{device or images.device} ran out of memory on a batch of {batch} image(s) padded to {height} x {width} "
            f"pixels{objects}: {way_out}"
        ) from error
