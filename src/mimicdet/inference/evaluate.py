"""Runs a detector over a data set and counts what it found, on one process or many.

Whatever makes detections of a batch can be evaluated: the detector that ships, and the T-head on the same path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from mimicdet.data.batch import Batch
from mimicdet.data.dataset import DetectionDataset
from mimicdet.data.loader import eval_loader
from mimicdet.errors import UserError
from mimicdet.inference.coco_metrics import COCO_LIMITS, Metrics, coco_metrics
from mimicdet.inference.decode import Detections
from mimicdet.inference.detect import detect as run_detector
from mimicdet.inference.detect import to_original_pixels
from mimicdet.inference.flips import Flips

Detect = Callable[[Batch], Sequence[Detections]]
"""Makes the detections of each image of a batch, in pixels of the resized image, labels 0..K-1."""


def evaluate(
    model: nn.Module,
    dataset: DetectionDataset,
    *,
    shorter_side: int,
    longer_side: int,
    dense: bool = False,
    positions: int = 1000,
    score_threshold: float = 0.005,
    nms_iou: float = 0.6,
    max_detections: int = 100,
    flips: Flips = "none",
    batch_size: int = 1,
    device: torch.device | str | None = None,
    workers: int = 0,
    progress: bool = False,
    limits: tuple[int, int, int] = COCO_LIMITS,
) -> Metrics:
    """COCO's numbers of a detector on a data set.

    Args:
        model: a dense detector (``mimicdet.models.dense``), on ``device``. It is put into evaluation mode and
            gets its modes back afterwards.
        dataset: with its objects.
        shorter_side ... batch_size: the fields of ``mimicdet.config.InferenceSettings``.
        device: where batches go; None is where the model's parameters are.
        workers: processes that read images; 0 reads in this one.
        progress: show a bar, on the first process.
        limits: detections counted per image, see ``coco_metrics``.

    Every process of a ``torch.distributed`` group must call this; each sees a part of the images, and all get the
    same result.

    Raises:
        UserError: an image cannot be read, or the batch does not fit into memory; on every process alike.
    """
    divisor = getattr(model, "divisor", 32)
    device = next(model.parameters()).device if device is None else torch.device(device)

    def detect_batch(batch: Batch) -> list[Detections]:
        return run_detector(
            model, batch.images, batch.sizes, dense=dense, positions=positions, score_threshold=score_threshold,
            nms_iou=nms_iou, max_detections=max_detections, flips=flips,
        )  # fmt: skip

    with evaluation_mode(model):
        return evaluate_with(
            detect_batch, dataset, shorter_side=shorter_side, longer_side=longer_side, batch_size=batch_size,
            device=device, workers=workers, progress=progress, divisor=divisor, limits=limits,
        )  # fmt: skip


def evaluate_with(
    detect: Detect,
    dataset: DetectionDataset,
    *,
    shorter_side: int,
    longer_side: int,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: bool = False,
    divisor: int = 32,
    limits: tuple[int, int, int] = COCO_LIMITS,
) -> Metrics:
    """COCO's numbers of any callable that detects; see ``evaluate``. The caller sees to evaluation mode."""
    detections = detect_dataset(
        detect, dataset, shorter_side=shorter_side, longer_side=longer_side, batch_size=batch_size, device=device,
        workers=workers, progress=progress, divisor=divisor,
    )  # fmt: skip
    return coco_metrics(dataset.to_coco(), detections, limits=limits)


@torch.inference_mode()
def detect_dataset(
    detect: Detect,
    dataset: DetectionDataset,
    *,
    shorter_side: int,
    longer_side: int,
    batch_size: int = 1,
    device: torch.device | str = "cpu",
    workers: int = 0,
    progress: bool = False,
    divisor: int = 32,
) -> list[dict[str, Any]]:
    """COCO results of a whole data set, in its order, the same on every process; see ``evaluate``.

    Boxes are x, y, width, height in pixels of the original image and inside it; ids are the data set's own.
    """
    rank, world_size = _rank_and_world_size()
    device = torch.device(device)
    loader = eval_loader(
        dataset, shorter_side=shorter_side, longer_side=longer_side, batch_size=batch_size, workers=workers,
        rank=rank, world_size=world_size, pin_memory=device.type == "cuda", divisor=divisor,
    )  # fmt: skip
    category_ids = [category.id for category in dataset.categories]
    found: dict[int, list[dict[str, Any]]] = {}
    failure: str | None = None
    try:
        for batch in tqdm(loader, desc="evaluate", unit="batch", leave=False, disable=not progress or rank > 0):
            found |= coco_results(batch, detect(batch.to(device)), category_ids)
    except UserError as error:  # the others must hear of it: they wait for this process's share
        failure = str(error)
    shares = _gather((found, failure), world_size)
    for _, failure in shares:
        if failure is not None:
            raise UserError(failure)
    # Keyed by image, so an image that two processes saw counts once; in the data set's order, so that equal scores
    # break ties alike however many processes there were.
    everything = {image_id: results for share, _ in shares for image_id, results in share.items()}
    return [result for record in dataset.images for result in everything[record.id]]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module has the mode it had, frozen ones among training ones too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def coco_results(
    batch: Batch, detections: Sequence[Detections], category_ids: Sequence[int]
) -> dict[int, list[dict[str, Any]]]:
    """COCO's results by image id, boxes in its original pixels, of the detections in each image of a batch."""
    return {
        image_id: _of_image(
            image_id, found._replace(boxes=to_original_pixels(found.boxes, (height, width), original)), category_ids
        )
        for found, (height, width), original, image_id in zip(
            detections, batch.sizes.tolist(), batch.original_sizes, batch.image_ids, strict=True
        )
    }


def _of_image(image_id: int, detections: Detections, category_ids: Sequence[int]) -> list[dict[str, Any]]:
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for (x1, y1, x2, y2), score, label in zip(
            detections.boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        )
    ]


def _rank_and_world_size() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _gather(share: Any, world_size: int) -> list[Any]:
    if world_size == 1:
        return [share]
    shares: list[Any] = [None] * world_size
    dist.all_gather_object(shares, share)
    return shares
