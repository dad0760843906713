"""A trained detector, from images of any kind to boxes in their own pixels.

N detections of an image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from torch import Tensor

from mimicdet.build import load_model
from mimicdet.config import InferenceSettings, MimicDetSettings, TrunkSettings
from mimicdet.data.batch import pad_to_batch
from mimicdet.data.dataset import Category
from mimicdet.data.tiles import Tiles, merge_tile_detections, tiles_of
from mimicdet.data.transform import resize_for_inference
from mimicdet.errors import UserError
from mimicdet.export.exported_file import SUFFIXES
from mimicdet.inference.decode import Detections
from mimicdet.inference.detect import to_original_pixels
from mimicdet.inference.folded import FoldedModel, move_to
from mimicdet.models.detector import DetectionModel
from mimicdet.predict.exported import ExportedModel
from mimicdet.predict.inputs import ImageLike, each_image, to_pixels
from mimicdet.weights.folder import save_model

EXPORTED = tuple(SUFFIXES.values())
"""What the name of an exported file ends with."""
_SORTED_BATCHES = 4
"""So many batches of images are read ahead and sorted by size, for padding costs time."""


class Detection(TypedDict):
    """What is found in one image, best score first: torchvision's contract, and the names. All on the CPU."""

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

    def __init__(
        self,
        *,
        model: DetectionModel | ExportedModel,
        categories: Sequence[Category],
        settings: TrunkSettings,
        inference: InferenceSettings,
    ) -> None:
        self._model = model
        self.runner: FoldedModel | ExportedModel = (
            model if isinstance(model, ExportedModel) else FoldedModel(model.eval())
        )
        self.categories = tuple(categories)
        self.settings = settings
        self.inference = inference

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str | None = None) -> Detector:
        """Returns the detector in a model folder, such as ``model`` in a run folder, or in an exported file.

        Args:
            folder: with ``model.safetensors`` and ``model.json``. Nothing in it is executed. Or a file that
                ``mimicdet export`` wrote, whose description lies beside it; it runs on the CPU.
            device: such as ``cpu`` or ``cuda:1``; None is the first CUDA GPU where there is one, else the CPU.

        Raises:
            UserError: no model folder, a broken one, or a device that is not there.
        """
        if Path(folder).suffix in EXPORTED and not Path(folder).is_dir():
            exported = ExportedModel.from_file(Path(folder))
            exported.to(device or "cpu")
            return cls(
                model=exported, categories=exported.description.categories, settings=MimicDetSettings.Model(),
                inference=exported.inference,
            )  # fmt: skip
        loaded = load_model(folder)
        move_to(loaded.model, device)
        return cls(
            model=loaded.model, categories=loaded.categories, settings=loaded.settings, inference=loaded.inference
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model folder that ``from_pretrained`` reads, with the inference settings as they are now.

        Raises:
            UserError: the detector is an exported file.
        """
        if isinstance(self.model, ExportedModel):
            raise UserError(
                f"{self.model.file} is an exported model, which cannot be saved in another form; copy the file"
            )
        save_model(
            folder,
            self.model,
            model_settings=self.settings.model_dump(mode="json"),
            inference=self.inference.model_dump(mode="json"),
            categories=self.categories,
        )

    def to(self, device: torch.device | str) -> Detector:
        """Moves the model; returns the detector itself. Raises UserError when it cannot run there."""
        self.runner.to(device)
        return self

    @property
    def model(self) -> DetectionModel | ExportedModel:
        """The model is as it was given; its weights may be changed at any time."""
        return self._model

    @property
    def device(self) -> torch.device:
        return self.runner.device

    @property
    def classes(self) -> dict[int, str]:
        """Category id, as in the results' ``labels`` -> name, in the order of the classes."""
        return {category.id: category.name for category in self.categories}

    def __call__(self, images: ImageLike | Iterable[ImageLike], **options: Any) -> list[Detection]:
        """Returns what is found in one image, or in each of several of any sizes and kinds, in their order.

        A list even for one image. Options and errors as for ``stream``.
        """
        return list(self.stream(images, **options))

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
            images: see ``mimicdet.predict.inputs.ImageLike``; one, or a list, generator or 4-dimensional array of
                them. Read as they are needed.
            tile: cut each image into squares of this side in pixels, detect in each, and merge what is found. For
                images much larger than those the model was trained on, such as aerial ones. ``max_detections`` then
                holds for each tile.
            overlap: share of a tile's side that it has in common with its neighbour, at least; objects up to this
                size are seen whole in one of the two.
            score_threshold, nms_iou, max_detections, batch_size: instead of those in ``self.inference``.

        Raises:
            UserError: an image that cannot be read or is none, an option out of range, or not enough memory.
        """
        tiles = tiles_of(tile, overlap)
        inference = self._inference_with(
            score_threshold=score_threshold, nms_iou=nms_iou, max_detections=max_detections, batch_size=batch_size
        )
        return self._stream(each_image(images), tiles, inference)

    def _inference_with(self, **changes: float | None) -> InferenceSettings:
        given = {key: value for key, value in changes.items() if value is not None}
        try:
            return InferenceSettings.model_validate({**self.inference.model_dump(), **given})
        except ValueError as error:  # pydantic's lists all that is wrong over several lines
            raise UserError(f"{_first_fault(error)}; these options were given: {given}") from error

    def _stream(
        self, images: Iterator[ImageLike], tiles: Tiles | None, inference: InferenceSettings
    ) -> Iterator[Detection]:
        layouts: deque[tuple[tuple[int, int], list[tuple[int, int, int, int]]]] = deque()  # of images on their way

        def crops() -> Iterator[np.ndarray]:
            for number, image in enumerate(images):
                pixels = to_pixels(image, name=f"image {number}")
                height, width = pixels.shape[:2]
                windows = [(0, 0, width, height)] if tiles is None else tiles.windows(height, width)
                layouts.append(((height, width), windows))
                for x1, y1, x2, y2 in windows:
                    yield pixels[y1:y2, x1:x2]

        found = self._detect(crops(), inference)
        for first in found:
            (height, width), windows = layouts.popleft()
            parts = [first, *islice(found, len(windows) - 1)]
            if tiles is None:
                yield self._result(*first)
            else:
                merged = merge_tile_detections(parts, windows, height, width, nms_iou=inference.nms_iou)
                yield self._result(*merged)

    def _detect(self, crops: Iterator[np.ndarray], inference: InferenceSettings) -> Iterator[Detections]:
        """Detections of each crop (h, w, 3) in its own pixels, float64 on the CPU, in the order of the crops."""
        batch_size = inference.batch_size
        while chunk := list(islice(crops, batch_size * (_SORTED_BATCHES if batch_size > 1 else 1))):
            resized = [resize_for_inference(c, inference.shorter_side, inference.longer_side) for c in chunk]
            order = sorted(range(len(chunk)), key=lambda i: resized[i].shape)
            found: dict[int, Detections] = {}
            for start in range(0, len(chunk), batch_size):
                members = order[start : start + batch_size]
                batch = pad_to_batch([resized[i] for i in members], self.runner.divisor)
                for i, detections in zip(members, self.runner.detect(batch, inference), strict=True):
                    size = (resized[i].shape[1], resized[i].shape[2])
                    boxes = to_original_pixels(detections.boxes.cpu(), size, chunk[i].shape[:2])
                    found[i] = Detections(boxes, detections.scores.cpu(), detections.labels.cpu())
            yield from (found[i] for i in range(len(chunk)))

    def _result(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Detection:
        classes = labels.tolist()
        return {
            "boxes": boxes.float(),
            "scores": scores.clone().float(),  # a tensor made in inference mode may not take part in autograd
            "labels": torch.tensor([self.categories[k].id for k in classes], dtype=torch.int64),
            "names": [self.categories[k].name for k in classes],
        }


def _first_fault(error: ValueError) -> str:
    first = error.errors()[0]  # type: ignore[attr-defined]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'][0].lower()}{first['msg'][1:]}"
