"""Finds where the S-head looks for an object: points that its alignment layer reads, and the adjusted box (Figure 3).

M objects of an image, R positions read, T taps.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.path import Path
from matplotlib.transforms import Bbox
from torch import Tensor
from tqdm import tqdm

from mimicdet.data.batch import pad_to_batch
from mimicdet.data.dataset import DetectionDataset, ImageRecord, match_classes
from mimicdet.data.decode import read_image
from mimicdet.data.transform import resize_for_inference
from mimicdet.errors import UserError
from mimicdet.models.mimicdet import MimicDet, Refined
from mimicdet.models.s_head import SHead, level_of
from mimicdet.ops.boxes import iou
from mimicdet.predict.detector import Detector
from mimicdet.predict.exported import ExportedModel

FOUND_IOU = 0.5
"""An object is found where an adjusted box overlaps it so much; COCO's least."""


@dataclass(frozen=True)
class Sight:
    """Holds one object, and where the S-head looks for it, in pixels of the original image."""

    level: int  # of the pyramid
    box: np.ndarray  # (4,) the object's
    adjusted_box: np.ndarray  # (4,) of the position whose adjusted box overlaps it best
    points: np.ndarray  # (T, 2) x, y that the alignment layer reads there

    @property
    def inside(self) -> float:
        """Returns the share of the points inside the adjusted box, edges included."""
        x1, y1, x2, y2 = self.adjusted_box
        x, y = self.points.T
        return float(((x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)).mean())

    @property
    def overlap(self) -> float:
        """Returns the IoU of the points' convex hull with the adjusted box."""
        return hull_overlap(self.points, self.adjusted_box)


class Summary(NamedTuple):
    """Holds a model's numbers over a data set; shares in 0..1, NaN where nothing was found."""

    objects: int
    found: int  # those whose place an adjusted box overlaps by FOUND_IOU
    inside: float  # mean over the found ones
    overlap: float


def require_alignment(detector: Detector, name: str) -> None:
    """Raises UserError unless the detector's S-head can be looked into."""
    if isinstance(detector.model, ExportedModel):
        raise UserError(f"{name} is an exported file, which shows what it detects alone; give the model folder")
    if not isinstance(detector.model, MimicDet):
        family = detector.settings.family
        raise UserError(f"{name} is of family '{family}', which has no alignment layer; choose a 'mimicdet'")


def look_at_objects(detector: Detector, dataset: DetectionDataset) -> Iterator[tuple[ImageRecord, list[Sight | None]]]:
    """Yields each image with its objects in order, crowd regions left out; None for one that is not found.

    Of the positions that the S-head computes (the best by refinement score) the one whose adjusted box overlaps the
    object best speaks for it. UserError where the detector has no alignment layer or does not know a class, and where
    an image cannot be read.
    """
    require_alignment(detector, "the model")
    dataset = match_classes(dataset, detector.categories)
    for record in tqdm(dataset.images, desc="alignment", unit="image", leave=False, disable=None):
        yield record, _look(detector, record)


@torch.inference_mode()
def _look(detector: Detector, record: ImageRecord) -> list[Sight | None]:
    model: MimicDet = detector.model  # type: ignore[assignment]
    sides = detector.inference.shorter_side, detector.inference.longer_side
    image = resize_for_inference(read_image(record.file), *sides)
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
    """Returns where the alignment layer reads for each of P positions: (T, 2) x, y in pixels of the padded input.

    The rows are (P,) int64, ``image * A + position``. The number T of taps is that of the position's level.
    """
    table, count = s_head.table(refined.pyramid.levels)
    places, found = refined.places, []
    for row in rows.split(1):
        image_start, guide = row // count * count, refined.deltas.reshape(-1, 4)[row]
        position = row - image_start
        finest, where = bool(places.level[position] == 0), level_of(places, image_start, position)
        points = s_head.points(table, guide, places, where, position, finest=finest)  # (1, T, 2) y, x in cells
        found.append((points[0].flip(-1) + 0.5) * places.stride[position])
    return found


def summarise(sights: Sequence[Sight | None]) -> Summary:
    """Returns numbers over all objects."""
    if not (found := [sight for sight in sights if sight is not None]):
        return Summary(len(sights), 0, float("nan"), float("nan"))
    return Summary(len(sights), len(found), fmean(s.inside for s in found), fmean(s.overlap for s in found))


def convex_hull(points: np.ndarray) -> np.ndarray:
    """Returns the corners of the convex hull of (T, 2) points, counter-clockwise where y points up.

    A hull without area has two or fewer. Andrew's monotone chain: the lower half to the right, the upper one back.
    """
    ordered = np.unique(points, axis=0)  # by x, then y
    if len(ordered) < 3:
        return ordered

    def half(chain: np.ndarray) -> list[np.ndarray]:
        corners: list[np.ndarray] = []
        for point in chain:
            while len(corners) > 1 and _turn(corners[-2], corners[-1], point) <= 0:
                corners.pop()
            corners.append(point)
        return corners

    return np.array(half(ordered)[:-1] + half(ordered[::-1])[:-1])


def polygon_area(corners: np.ndarray) -> float:
    """Returns the area of a polygon with corners (N, 2) in order (the shoelace formula)."""
    x, y = corners[:, 0], corners[:, 1]
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2) if len(corners) > 2 else 0.0


def hull_overlap(points: np.ndarray, box: np.ndarray) -> float:
    """Returns the IoU of the convex hull of (T, 2) points with a box x1 y1 x2 y2; 0 where neither has an area."""
    hull = convex_hull(np.asarray(points, dtype=np.float64))
    x1, y1, x2, y2 = (float(value) for value in box)
    areas = polygon_area(hull), max(x2 - x1, 0.0) * max(y2 - y1, 0.0)
    if not all(areas):
        return 0.0
    clipped = Path(hull, closed=False).clip_to_bbox(Bbox([[x1, y1], [x2, y2]]))
    common = polygon_area(np.asarray(clipped.vertices))
    return common / (sum(areas) - common)


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> float:
    """Returns a number above 0 where the way from a over b to c turns left."""
    return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))
