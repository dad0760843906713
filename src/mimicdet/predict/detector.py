"""A trained detector, from images of any kind to boxes in their own pixels.

Files and PIL images follow the rules of ``mimicdet.data.decode``; arrays and tensors those of :func:`to_pixels`.
N detections of an image.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import IOBase
from itertools import count, islice
from os import PathLike
from pathlib import Path
from typing import Any, Self, TypedDict

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from mimicdet.arguments import checked, first_fault, path_of
from mimicdet.build import load_model
from mimicdet.config import InferenceSettings, MimicDetSettings, TrunkSettings
from mimicdet.data.batch import pad_to_batch
from mimicdet.data.dataset import Category
from mimicdet.data.decode import MAX_PIXELS, read_image, to_rgb
from mimicdet.data.photograph import Photograph
from mimicdet.data.tiles import Tiles, Window, merge_tile_detections, tiles_of
from mimicdet.data.transform import resize_for_inference
from mimicdet.errors import UserError, writing
from mimicdet.export.exported_file import SUFFIXES
from mimicdet.inference.decode import Detections
from mimicdet.inference.detect import to_original_pixels
from mimicdet.inference.fold import FoldedModel
from mimicdet.models.detector import DetectionModel
from mimicdet.models.device import move_to
from mimicdet.predict.exported import ExportedModel
from mimicdet.weights.folder import save_model

ImageLike = str | PathLike[str] | Image.Image | np.ndarray | Tensor
"""One image: a path, a PIL image, an array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4), or a tensor (1, h, w) or
(3, h, w). Arrays and tensors are uint8, or floats in 0..1."""

EXPORTED = tuple(SUFFIXES.values())
"""What the name of an exported file ends with."""
_SORTED_BATCHES = 4
"""So many batches of images are read ahead and sorted by size, for padding costs time."""


class Detection(TypedDict):
    """Holds what is found in one image, best score first: torchvision's contract, and the names. All on the CPU."""

    boxes: Tensor  # (N, 4) float32, x1 y1 x2 y2 in pixels of the upright original image, inside it
    scores: Tensor  # (N,) float32, 0..1
    labels: Tensor  # (N,) int64, the data set's own category ids
    names: list[str]  # N class names


class Detector:
    """A detector finds boxes in images of any kind; ``Detector.from_pretrained(folder)`` makes one.

    ```python
    from mimicdet import Detector

    detector = Detector.from_pretrained("runs/cells/model")
    for result in detector(["photo.jpg", "photos/0.png"], score_threshold=0.3):
        print(result["boxes"].shape, result["scores"], result["names"])
    ```

    Args:
        model: a detector, or an exported one.
        categories: class index -> id and name.
        settings: how ``model`` was built, for ``save_pretrained``; an exported one needs none.
        inference: sizes, thresholds and limits; the attribute of this name may be exchanged at any time.
    """

    @checked(but=("settings",))
    def __init__(
        self,
        *,
        model: DetectionModel | ExportedModel,
        categories: Sequence[Category],
        settings: TrunkSettings,
        inference: InferenceSettings,
    ) -> None:
        if isinstance(model, DetectionModel) and not isinstance(settings, TrunkSettings):
            raise UserError(f"the detector's settings must be TrunkSettings, not {type(settings).__name__}")
        if not all(isinstance(category, Category) for category in categories):
            raise UserError("categories must be objects of the class Category, each with an id and a name")
        if isinstance(model, DetectionModel) and model.num_classes != len(categories):
            raise UserError(f"a model of {model.num_classes} classes needs as many categories, not {len(categories)}")
        self._model = model
        self.runner = model if isinstance(model, ExportedModel) else FoldedModel(model.eval())
        self.categories = tuple(categories)
        self.settings = settings
        self.inference = inference

    @classmethod
    @checked()
    def from_pretrained(
        cls, folder: str | Path, device: torch.device | str | None = None, *, trust: bool = False
    ) -> Self:
        """Reads the detector in a model folder, such as ``model`` in a run folder, or in an exported file.

        Args:
            folder: with ``model.safetensors`` and ``model.json``. Nothing in it is executed. Or a file that
                ``mimicdet export`` wrote, whose description lies beside it; it runs on the CPU.
            device: such as ``cpu`` or ``cuda:1``; None is the first CUDA GPU where there is one, else the CPU.
            trust: read a .pt2 file although it may hold code that runs when it is read; whoever made it is trusted.

        Raises:
            UserError: no model folder, a broken one, a .pt2 file without ``trust``, or a device that is not there.
        """
        if Path(folder).suffix in EXPORTED and not Path(folder).is_dir():
            file = ExportedModel.from_file(Path(folder), trust=trust)
            file.to(device or "cpu")
            categories, settings = file.description.categories, MimicDetSettings.Model()
            return cls(model=file, categories=categories, settings=settings, inference=file.inference)
        read = load_model(folder)
        move_to(read.model, device)
        return cls(model=read.model, categories=read.categories, settings=read.settings, inference=read.inference)

    @checked()
    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model folder that ``from_pretrained`` reads, with the inference settings as they are now.

        Raises UserError when the detector is an exported file.
        """
        if isinstance(self.model, ExportedModel):
            raise UserError(
                f"{self.model.file} is an exported model, which cannot be saved in another form; copy the file"
            )
        settings, inference = self.settings.model_dump(mode="json"), self.inference.model_dump(mode="json")
        save_model(folder, self.model, model_settings=settings, inference=inference, categories=self.categories)

    @checked()
    def to(self, device: torch.device | str) -> Self:
        """Moves the model; returns the detector itself. Raises UserError when it cannot run there."""
        self.runner.to(device)
        return self

    @property
    def model(self) -> DetectionModel | ExportedModel:
        """Returns the model as it was given; its weights may be changed at any time."""
        return self._model

    @property
    def device(self) -> torch.device:
        """Returns the model's device."""
        return self.runner.device

    @property
    def classes(self) -> dict[int, str]:
        """Maps category ids, as in the results' ``labels``, to names, in the order of the classes."""
        return {category.id: category.name for category in self.categories}

    def __call__(self, images: ImageLike | Iterable[ImageLike], **options: Any) -> list[Detection]:
        """Returns a list of what is found in one image, or in each of several of any sizes and kinds, in their order.

        Options and errors as for ``stream``.
        """
        return list(self.stream(images, **options))

    @checked(but=("images", "tile", "overlap", "score_threshold", "nms_iou", "max_detections", "batch_size"))
    def stream(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        tile: int | None = None,
        overlap: float = 0.25,
        score_threshold: float | None = None,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        batch_size: int | None = None,
    ) -> Iterator[Detection]:
        """Yields one result after the other, for more images than fit into memory.

        Args:
            images: see ``mimicdet.predict.detector.ImageLike``; one, or a list, generator or 4-dimensional array of
                them. Read as they are needed.
            tile: cut each image into squares of this side in pixels, 32 or more, detect in each, and merge what is
                found. For images much larger than those the model was trained on, such as aerial ones.
                ``max_detections`` then holds for each tile.
            overlap: share of a tile's side that it has in common with its neighbour, at least, 0 to 0.9; objects up to
                this size are seen whole in one of the two.
            score_threshold, nms_iou, max_detections, batch_size: instead of those in ``self.inference``.

        Raises:
            UserError: an image that cannot be read or is none, an option out of range, or not enough memory.
        """
        tiles = tiles_of(tile, overlap)
        inference = self.inference_with(
            score_threshold=score_threshold, nms_iou=nms_iou, max_detections=max_detections, batch_size=batch_size
        )
        return self._stream(each_image(images), tiles, inference)

    def inference_with(self, **changes: float | None) -> InferenceSettings:
        """Returns the inference settings with changes, None for none; UserError where one is out of range."""
        given = {key: value for key, value in changes.items() if value is not None}
        if not isinstance(self.inference, InferenceSettings):
            raise UserError(f"the detector's inference must be InferenceSettings, not {type(self.inference).__name__}")
        try:
            return InferenceSettings.model_validate({**self.inference.model_dump(warnings=False), **given})
        except ValidationError as error:
            raise UserError(f"{first_fault(error)}; these options were given: {writing(given)}") from error

    def _stream(
        self, images: Iterator[ImageLike], tiles: Tiles | None, inference: InferenceSettings
    ) -> Iterator[Detection]:
        layouts: deque[tuple[tuple[int, int], list[tuple[int, int, int, int]]]] = deque()  # of images on their way

        def crops() -> Iterator[np.ndarray]:
            numbers = count()  # enumerate() would keep an image while the next is read, as would the names below
            for image in images:
                size, window = _in_windows(image, tiles is not None, f"image {next(numbers)}")
                windows = [(0, 0, size[1], size[0])] if tiles is None else tiles.windows(*size)
                layouts.append((size, windows))
                for place in windows:
                    yield window(place)
                del image, window

        found = self._detect(crops(), inference)
        for first in found:
            (height, width), windows = layouts.popleft()
            parts = [first, *islice(found, len(windows) - 1)]
            if tiles is not None:
                first = Detections(*merge_tile_detections(parts, windows, height, width, nms_iou=inference.nms_iou))
            yield self._result(first)

    def _detect(self, crops: Iterator[np.ndarray], inference: InferenceSettings) -> Iterator[Detections]:
        """Detections of each crop (h, w, 3) in its own pixels, float64 on the CPU, in the order of the crops."""
        batch_size = inference.batch_size
        sides, number = (inference.shorter_side, inference.longer_side), batch_size
        number *= _SORTED_BATCHES if batch_size > 1 else 1

        def resized_crop(crop: np.ndarray) -> tuple[tuple[int, int], Tensor]:
            return crop.shape[:2], resize_for_inference(crop, *sides)

        # Each is resized at once: the crops themselves could be too large to keep
        while chunk := list(map(resized_crop, islice(crops, number))):
            resized = [image for _, image in chunk]
            order = sorted(range(len(chunk)), key=lambda i: resized[i].shape)
            found: dict[int, Detections] = {}
            for start in range(0, len(chunk), batch_size):
                members = order[start : start + batch_size]
                batch = pad_to_batch([resized[i] for i in members], self.runner.divisor)
                for i, detections in zip(members, self.runner.detect(batch, inference), strict=True):
                    size = (resized[i].shape[1], resized[i].shape[2])
                    boxes = to_original_pixels(detections.boxes.cpu(), size, chunk[i][0])
                    found[i] = Detections(boxes, detections.scores.cpu(), detections.labels.cpu())
            yield from (found[i] for i in range(len(chunk)))

    def _result(self, found: Detections) -> Detection:
        categories = [self.categories[k] for k in found.labels.tolist()]
        return {
            "boxes": found.boxes.float(),
            "scores": found.scores.clone().float(),  # a tensor made in inference mode may not take part in autograd
            "labels": torch.tensor([category.id for category in categories], dtype=torch.int64),
            "names": [category.name for category in categories],
        }


def each_image(images: ImageLike | Iterable[ImageLike]) -> Iterator[ImageLike]:
    """Yields the images of a list, a generator or a 4-dimensional array or tensor; or the one image that was given."""
    if isinstance(images, np.ndarray | Tensor):
        yield from images if images.ndim == 4 else (images,)
    elif isinstance(images, str | PathLike | Image.Image):
        yield images
    elif isinstance(images, Iterable) and not isinstance(images, bytes | bytearray | memoryview | IOBase):
        yield from images
    else:
        raise UserError(_unknown(images))


def _in_windows(
    image: ImageLike | Photograph, tiled: bool, name: str
) -> tuple[tuple[int, int], Callable[[Window], np.ndarray]]:
    """Returns height and width of an image, and what reads the pixels of a window."""
    if tiled and isinstance(image, str | PathLike):
        image = Photograph(path_of(image, name))
    if isinstance(image, Photograph):
        return image.size, image.window
    pixels = to_pixels(image, name=name)
    height, width = pixels.shape[:2]
    return (height, width), lambda window: pixels[window[1] : window[3], window[0] : window[2]]


def to_pixels(image: ImageLike, *, name: str = "the image") -> np.ndarray:
    """Turns one image into an upright (h, w, 3) uint8 RGB array.

    Args:
        image: see ``ImageLike``. Channels are red, green, blue and, of four, transparency (white shows through).
            The channels of an array come last, those of a tensor first. OpenCV's arrays are blue, green, red: hand
            over ``array[..., ::-1]``.
        name: what error messages call it.

    Raises:
        UserError: a file that cannot be read; a shape, type or value range that no image has.
    """
    if isinstance(image, str | PathLike):
        return read_image(path_of(image, name))
    if isinstance(image, Image.Image):
        _require_size(image.height, image.width, name)
        try:
            return to_rgb(image)
        except MemoryError:
            raise
        except Exception as error:  # Pillow raises anything for images that are closed, damaged or of a rare mode
            raise UserError(f"{name}: {error}; hand over another form of it, such as RGB") from error
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] not in (1, 3):
            raise UserError(
                f"{name} is a tensor of shape {tuple(image.shape)}, which must be (3, height, width) or (1, height, "
                "width); hand over an array with the channels last as a numpy array"
            )
        _require_size(image.shape[1], image.shape[2], name)
        try:
            tensor = image.detach().cpu()
            tensor = tensor.float() if tensor.is_floating_point() else tensor  # bfloat16 is unknown to numpy
            array = tensor.numpy().transpose(1, 2, 0)
        except (RuntimeError, TypeError) as error:  # sparse, quantised, without values, ...
            reason = str(error).splitlines()[0]
            raise UserError(f"{name} is a tensor that has no plain form ({reason}); hand over a dense one") from error
        return _array_to_pixels(array, name)
    if isinstance(image, np.ndarray):
        array = np.asarray(image)  # np.matrix has no third dimension
        array = array[..., None] if array.ndim == 2 else array
        if array.ndim != 3 or array.shape[2] not in (1, 3, 4):
            raise UserError(
                f"{name} is an array of shape {image.shape}, which must be (height, width), or (height, width, "
                "channels) with 1, 3 or 4 channels; hand over an array with the channels first as a tensor"
            )
        if array.dtype != np.uint8 or array.shape[2] != 3 or not array.flags.c_contiguous:
            _require_size(array.shape[0], array.shape[1], name)
        return _array_to_pixels(array, name)
    raise UserError(_unknown(image, name))


def _require_size(height: int, width: int, name: str) -> None:
    """Raises UserError for an image that is too large to convert; a view of few values may claim any size."""
    if height * width > MAX_PIXELS:
        raise UserError(
            f"{name} is {width} x {height} pixels, over the limit of {MAX_PIXELS:,} pixels; name its file and a tile, "
            "or hand over parts, or a contiguous array (height, width, 3) of uint8, which needs no conversion"
        )


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
