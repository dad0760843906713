"""Where the S-head looks for an object: the points its alignment layer reads, against the adjusted box (Figure 3).

M objects of an image, R positions read, T taps.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mimicdet.data.batch import pad_to_batch
from mimicdet.data.dataset import DetectionDataset, ImageRecord, match_classes
from mimicdet.data.decode import read_image
from mimicdet.data.transform import resize_for_inference
from mimicdet.errors import UserError
from mimicdet.lab.explain.hull import hull_overlap
from mimicdet.models.mimicdet import MimicDet, Refined
from mimicdet.models.s_head import SHead, level_of
from mimicdet.ops.boxes import iou
from mimicdet.predict.detector import Detector
from mimicdet.predict.exported import ExportedModel

FOUND_IOU = 0.5
"""An object is found where an adjusted box overlaps it so much; COCO's least."""


@dataclass(frozen=True)
class Sight:
    """One object, and where the S-head looks for it. Pixels of the original image."""

    level: int  # of the pyramid
    box: np.ndarray  # (4,) the object's
    adjusted_box: np.ndarray  # (4,) of the position whose adjusted box overlaps it best
    points: np.ndarray  # (T, 2) x, y that the alignment layer reads there

    @property
    def inside(self) -> float:
        """Share of the points inside the adjusted box, edges included."""
        x1, y1, x2, y2 = self.adjusted_box
        x, y = self.points.T
        return float(((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)).mean())

    @property
    def overlap(self) -> float:
        """IoU of the points' convex hull with the adjusted box."""
        return hull_overlap(self.points, self.adjusted_box)


@dataclass(frozen=True)
class Summary:
    """Of a model over a data set; shares in 0..1, NaN where nothing was found."""

    objects: int
    found: int  # those whose place an adjusted box overlaps by FOUND_IOU
    inside: float  # mean over the found ones
    overlap: float


def require_alignment(detector: Detector, name: str) -> None:
    """UserError unless the detector's S-head can be looked into."""
    if isinstance(detector.model, ExportedModel):
        raise UserError(f"{name} is an exported file, which shows what it detects alone; give the model folder")
    if not isinstance(detector.model, MimicDet):
        family = detector.settings.family
        raise UserError(f"{name} is of family '{family}', which has no alignment layer; choose a 'mimicdet'")


def look_at_objects(
    detector: Detector, dataset: DetectionDataset, *, progress: bool = False
) -> Iterator[tuple[ImageRecord, list[Sight | None]]]:
    """For each image its objects in order, crowd regions left out; None for one that is not found.

    Of the positions that the S-head computes (the best by refinement score) the one whose adjusted box overlaps the
    object best speaks for it.

    Raises:
        UserError: a detector without an alignment layer; a class it does not know; an image that cannot be read.
    """
    require_alignment(detector, "the model")
    dataset = match_classes(dataset, detector.categories)
    for record in tqdm(dataset.images, desc="alignment", unit="image", leave=False, disable=not progress):
        yield record, _look(detector, record)


@torch.inference_mode()
def _look(detector: Detector, record: ImageRecord) -> list[Sight | None]:
    model: MimicDet = detector.model  # type: ignore[assignment]
    image = resize_for_inference(
        read_image(record.file), detector.inference.shorter_side, detector.inference.longer_side
    )
    batch = pad_to_batch([image], model.divisor).to(detector.device)
    boxes = record.boxes[~record.crowd]
    if not len(boxes):
        return []
    height, width = image.shape[1:]
    scale = np.array([width / record.width, height / record.height])
    resized = torch.tensor(boxes * np.tile(scale, 2), dtype=torch.float32, device=detector.device)
    refined = model.refine(batch.images, batch.sizes)
    positions = refined.best(detector.inference.positions)[0]
    overlap = iou(refined.adjusted_boxes[0, positions], resized)  # (R, M)
    best, row = overlap.max(0)
    chosen = positions[row]
    points = points_read(model.s_head, refined, chosen)
    levels = refined.places.level[chosen].tolist()
    adjusted = refined.adjusted_boxes[0, chosen].double().cpu().numpy() / np.tile(scale, 2)
    return [
        Sight(model.trunk.level_numbers[level], box, box_there, read.double().cpu().numpy() / scale)
        if value >= FOUND_IOU
        else None
        for value, level, box, box_there, read in zip(best.tolist(), levels, boxes, adjusted, points, strict=True)
    ]


def points_read(s_head: SHead, refined: Refined, rows: Tensor) -> list[Tensor]:
    """Where the alignment layer reads for each of P positions: (T, 2) x, y in pixels of the padded input.

    Args:
        rows: (P,) int64, ``image * A + position``. The number T of taps is that of the position's level.
    """
    table, count = s_head.table(refined.pyramid.levels)
    places, found = refined.places, []
    for row in rows.split(1):
        image_start, guide = row // count * count, refined.deltas.reshape(-1, 4)[row]
        position = row - image_start
        finest = bool(places.level[position] == 0)
        where = level_of(places, image_start, position)
        points = s_head.points(table, guide, places, where, position, finest=finest)  # (1, T, 2) y, x in cells
        found.append((points[0].flip(-1) + 0.5) * places.stride[position])
    return found


def summarise(sights: Sequence[Sight | None]) -> Summary:
    """Numbers over all objects."""
    found = [sight for sight in sights if sight is not None]
    nan = float("nan")
    return Summary(
        objects=len(sights),
        found=len(found),
        inside=statistics.fmean(s.inside for s in found) if found else nan,
        overlap=statistics.fmean(s.overlap for s in found) if found else nan,
    )
