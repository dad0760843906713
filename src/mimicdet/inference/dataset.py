"""Detects over a data set, on one process or many, and counts what was found: the one loop that does so.

Whatever detects in a batch can be run over a data set: the detector that ships, an exported file, a T-head, a teacher.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from mimicdet.config import InferenceSettings
from mimicdet.data.batch import Batch
from mimicdet.data.dataset import DetectionDataset, ImageRecord
from mimicdet.data.loader import EvalLoader
from mimicdet.data.tiles import Tiles, merge_tile_detections
from mimicdet.errors import UserError
from mimicdet.inference.coco_metrics import COCO_LIMITS, Metrics, coco_metrics
from mimicdet.inference.decode import Detections
from mimicdet.inference.detect import to_original_pixels


class Runner(Protocol):
    """Detects in batches; the caller sees to evaluation mode."""

    @property
    def device(self) -> torch.device:
        """Returns where it runs."""

    @property
    def divisor(self) -> int:
        """Returns what sides of a canvas must be multiples of."""

    def detect(self, batch: Batch, inference: InferenceSettings) -> list[Detections]:
        """Returns the detections of each image of a batch, in pixels of the resized image, labels 0..K-1."""


@dataclass(frozen=True)
class FunctionRunner:
    """Runs a function; it gets batches on ``device``."""

    function: Callable[[Batch, InferenceSettings], list[Detections]]
    device: torch.device
    divisor: int

    def detect(self, batch: Batch, inference: InferenceSettings) -> list[Detections]:
        """Returns what the function finds in a batch."""
        return self.function(batch.to(self.device), inference)


def evaluate_runner(
    runner: Runner,
    dataset: DetectionDataset,
    inference: InferenceSettings,
    *,
    tiles: Tiles | None = None,
    workers: int = 0,
    progress: bool = False,
    limits: tuple[int, int, int] = COCO_LIMITS,
) -> Metrics:
    """Returns COCO's numbers of a runner on a data set with its objects; arguments as for :func:`detect_dataset`.

    ``limits`` are the detections counted per image, see ``coco_metrics``.
    """
    found = detect_dataset(runner, dataset, inference, tiles=tiles, workers=workers, progress=progress)
    return coco_metrics(dataset.to_coco(), found, limits=limits)


@torch.inference_mode()
def detect_dataset(
    runner: Runner,
    dataset: DetectionDataset,
    inference: InferenceSettings,
    *,
    tiles: Tiles | None = None,
    workers: int = 0,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Returns COCO results of a whole data set, in its order, the same on every process.

    Boxes are x, y, width, height in pixels of the original image and inside it; ids are the data set's own.
    Every process of a ``torch.distributed`` group must call this; each sees a part of the images.

    Args:
        dataset: its classes in the order of the runner's labels.
        tiles: cut each image into tiles, detect in each, and merge what is found.
        workers: processes that read images; 0 reads in threads of this one.
        progress: show a bar, on the first process.

    Raises:
        UserError: an image cannot be read, or the batch does not fit into memory; on every process alike.
    """
    grouped = dist.is_available() and dist.is_initialized()
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if grouped else (0, 1)
    sizes: Any = inference.model_dump(include={"shorter_side", "longer_side", "batch_size"})
    reading: Any = {"rank": rank, "world_size": world_size, "workers": workers, "tiles": tiles}
    pin_memory = runner.device.type == "cuda"
    loader = EvalLoader(dataset, **sizes, **reading, pin_memory=pin_memory, divisor=runner.divisor)
    category_ids = [category.id for category in dataset.categories]
    found: dict[int, list[dict[str, Any]]] = {}
    failure: str | None = None
    try:
        with tqdm(loader, desc="evaluate", unit="batch", leave=False, disable=not progress or rank > 0) as bar:
            crops = (crop for batch in bar for crop in _in_own_pixels(batch, runner.detect(batch, inference)))
            for record in dataset.images[rank::world_size]:
                image = _whole(crops, record, tiles, inference)
                found[record.id] = _coco_results(record.id, image, category_ids)
    except UserError as error:  # the others must hear of it: they wait for this process's share
        failure = str(error)
    shares = _gather((found, failure), world_size)
    for _, failure in shares:
        if failure is not None:
            raise UserError(failure)
    # In the data set's order, so that equal scores break ties alike however many processes there were
    everything = {image_id: results for share, _ in shares for image_id, results in share.items()}
    return [result for record in dataset.images for result in everything[record.id]]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Sets evaluation mode; afterwards every module has the mode it had, frozen ones among training ones too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _in_own_pixels(batch: Batch, detections: list[Detections]) -> Iterator[Detections]:
    """Yields those of each image or tile, on the CPU, as float64."""
    for found, size, original in zip(detections, batch.sizes.tolist(), batch.original_sizes, strict=True):
        boxes, scores, labels = (part.cpu() for part in found)
        yield Detections(to_original_pixels(boxes, size, original), scores, labels)


def _whole(
    crops: Iterator[Detections], record: ImageRecord, tiles: Tiles | None, inference: InferenceSettings
) -> Detections:
    if tiles is None:
        return next(crops)
    windows = tiles.windows(record.height, record.width)
    parts = [next(crops) for _ in windows]
    return Detections(*merge_tile_detections(parts, windows, record.height, record.width, nms_iou=inference.nms_iou))


def _coco_results(image_id: int, detections: Detections, category_ids: list[int]) -> list[dict[str, Any]]:
    boxes, scores, labels = (part.tolist() for part in detections)
    return [
        {"image_id": image_id, "category_id": category_ids[label], "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for (x1, y1, x2, y2), score, label in zip(boxes, scores, labels, strict=True)
    ]


def _gather(share: Any, world_size: int) -> list[Any]:
    if world_size == 1:
        return [share]
    shares: list[Any] = [None] * world_size
    dist.all_gather_object(shares, share)
    return shares
