"""Says, as the one place, which boxes are good: every format's raw records become a clean data set here.

Rules, in this order; the first that applies decides. Coordinates are pixels of the upright image, W x H.

1. A coordinate that is NaN or infinite: dropped (`box_not_finite`).
2. x2 < x1 or y2 < y1: dropped (`box_inverted`).
3. A side shorter than 0.01 px: dropped (`box_no_area`).
4. Nothing (less than 0.01 px) left inside the image: dropped (`box_outside`).
5. Over the image's border by more than 2 px and more than 1 % of the image's side there: clipped, and counted
   among the faulty boxes (`box_overflow`), since it may betray a wrong image or a wrong format.
6. Over the border by less than that: clipped and counted (`box_clipped`), but no fault: tools that count pixels
   from 1 do it to every box at the border. Up to 0.01 px it is rounding and not counted at all.

7. Wholly within the first pixel of an image of 16 x 16 or more: kept and counted (`box_fraction`), since boxes
   given as fractions of the image's sides lie there. Three or more that are most of a split are an error.

The share of boxes under rules 1 to 5 among all boxes of a split is what `--data.max_faulty_boxes` limits.

Coordinates are rounded to multiples of 2^-30 px (about 1e-9 px) first. That absorbs the rounding
of YOLO's fractions and of COCO's x + width, so the same boxes give the same bytes from all three formats.
"""

from collections.abc import Sequence

import numpy as np

from mimicdet.data.dataset import DetectionDataset, ImageRecord
from mimicdet.data.faults import EXAMPLES, FAULTY_BOX, Fault, FaultKind, FaultLog
from mimicdet.data.raw import RawImage, RawSplit
from mimicdet.errors import UserError

MIN_SIDE = 0.01
"""Pixels: shorter sides are no area, smaller overflows no overflow. Float32 tells such edges apart up to 2^16."""
CLIP_PIXELS, CLIP_FRACTION = 2.0, 0.01
"""A box over the border by up to CLIP_PIXELS or CLIP_FRACTION of the side, whichever is more, is no fault."""
GRID = 2.0**-30
"""Coordinates are multiples of this; below 2^22 px float64 holds them, their sums and differences exactly."""

FIRST_PIXEL, SMALLEST_IMAGE = 1.01, 16
"""Boxes that end before FIRST_PIXEL are fractions of the sides, unless an image's side is below SMALLEST_IMAGE."""

KEEP, CLIPPED, OVERFLOW, OUTSIDE, NO_AREA, INVERTED, NOT_FINITE = range(7)
_FAULTS = {
    CLIPPED: (FaultKind.BOX_CLIPPED, "is slightly over the border of the image"),
    OVERFLOW: (FaultKind.BOX_OVERFLOW, "is far over the border of the image and was clipped"),
    OUTSIDE: (FaultKind.BOX_OUTSIDE, "is wholly outside the image"),
    NO_AREA: (FaultKind.BOX_NO_AREA, "has no area"),
    INVERTED: (FaultKind.BOX_INVERTED, "ends before it begins"),
    NOT_FINITE: (FaultKind.BOX_NOT_FINITE, "has a coordinate that is not a finite number"),
}


def clean_boxes(boxes: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Applies the rules above to any boxes (N, 4) float64, in pixels of images of heights and widths (N, 2).

    Returns the clipped boxes (N, 4) and the verdict of each (N,): KEEP, CLIPPED and OVERFLOW stay, the others are to be
    dropped (their rows mean nothing).
    """
    finite = np.isfinite(boxes).all(axis=1)  # (N,)
    boxes = np.where(finite[:, None], boxes, 0.0)
    with np.errstate(over="ignore"):
        boxes = np.where(np.abs(boxes) < 2.0**22, np.rint(boxes / GRID) * GRID, boxes) + 0.0  # + 0.0: no -0.0
    limits = np.tile(sizes[:, ::-1].astype(np.float64), (1, 2))  # (N, 4) width height width height
    clipped = np.clip(boxes, 0.0, limits)
    with np.errstate(over="ignore"):  # sides of boxes at 1e308 may be infinite, which is long enough
        sides = boxes[:, 2:] - boxes[:, :2]  # (N, 2)
        overflow = np.abs(boxes - clipped)  # (N, 4)
    far = (overflow > np.maximum(CLIP_PIXELS, CLIP_FRACTION * limits)).any(axis=1)  # (N,)
    inverted, no_area = (sides < 0).any(axis=1), (sides < MIN_SIDE).any(axis=1)  # (N,) each
    outside = (clipped[:, 2:] - clipped[:, :2] < MIN_SIDE).any(axis=1)  # (N,)
    rules = [~finite, inverted, no_area, outside, far, (overflow > MIN_SIDE).any(axis=1)]
    return clipped, np.select(rules, [NOT_FINITE, INVERTED, NO_AREA, OUTSIDE, OVERFLOW, CLIPPED], KEEP)


def clean(
    raw: RawSplit, found: Sequence[tuple[int, int] | UserError], log: FaultLog, *, max_faulty_boxes: float
) -> DetectionDataset:
    """Makes a clean data set of a split's raw records; everything wrong with them goes into ``log``.

    Unreadable images are left out with their objects. Image order is kept, and the order of each image's objects.
    ``found`` comes from `inspect_images`; a larger share of faulty boxes than ``max_faulty_boxes`` is a fault itself.
    """
    checked = [_checked_size(image, size, log) for image, size in zip(raw.images, found, strict=False)]
    sizes: np.ndarray = np.array(checked, dtype=np.int64).reshape(-1, 2)
    owners: np.ndarray = np.array(raw.owners, dtype=np.int64)
    labels: np.ndarray = np.array(raw.labels, dtype=np.int64)
    boxes: np.ndarray = np.array(raw.boxes, dtype=np.float64).reshape(-1, 4)
    crowd: np.ndarray = np.array(raw.crowd, dtype=bool)
    areas: np.ndarray = np.array(raw.areas, dtype=np.float64)
    rows = np.flatnonzero(sizes[owners, 0] > 0)  # of images that can be read
    rows = rows[np.argsort(owners[rows], kind="stable")]
    owners, boxes, labels, crowd, areas = (column[rows] for column in (owners, boxes, labels, crowd, areas))
    if raw.fractions:
        with np.errstate(over="ignore"):
            boxes = boxes * np.tile(sizes[owners][:, ::-1], (1, 2))
    boxes, verdict = clean_boxes(boxes, sizes[owners])
    for value, (kind, problem) in _FAULTS.items():
        _log_boxes(raw, rows[verdict == value], kind, problem, log)
    kept = verdict <= OVERFLOW
    fraction = kept & (boxes[:, 2:] <= FIRST_PIXEL).all(axis=1) & (sizes[owners] >= SMALLEST_IMAGE).all(axis=1)
    small = kept & ~fraction & (boxes[:, 2:] - boxes[:, :2] < 1).any(axis=1)
    problem = "lies within the first pixel, as boxes do that are fractions of the image's sides; give it in pixels"
    _log_boxes(raw, rows[fraction], FaultKind.BOX_FRACTION, problem, log)
    problem = "has a side below one pixel: it is learned only where images are enlarged"
    _log_boxes(raw, rows[small], FaultKind.BOX_BELOW_PIXEL, problem, log)
    count, least = int(fraction.sum()), max(2, max(0.5, max_faulty_boxes) * len(rows))
    if count > least:
        problem = f"{count} of the {len(rows)} boxes of split {raw.source.split} lie within the first pixel of their "
        problem += "images, as fractions of the sides do; multiply them by the image's width and height"
        log.add(FaultKind.FRACTIONS, raw.source.annotations, "", problem)
    _limit_faulty(raw, rows, verdict, sizes[owners], log, max_faulty_boxes)
    columns = (rows, owners, boxes, labels, crowd, areas, verdict)
    rows, owners, boxes, labels, crowd, areas, verdict = (column[kept] for column in columns)
    own_areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    areas = np.where(np.isfinite(areas) & (areas > 0), areas, own_areas)
    areas = np.where(verdict == KEEP, areas, np.minimum(areas, own_areas))
    if len(rows):
        table = np.column_stack([owners, labels, boxes])
        order = np.lexsort(table.T[::-1])
        again = order[1:][(table[order[1:]] == table[order[:-1]]).all(axis=1)]
        _log_boxes(raw, rows[again], FaultKind.DUPLICATE_OBJECT, "is listed twice with the same class", log)

    ends = np.searchsorted(owners, np.arange(len(raw.images)), side="right").tolist()
    records = []
    for image, (height, width), start, end in zip(raw.images, sizes.tolist(), [0, *ends], ends, strict=False):
        if height:
            own = boxes[start:end], labels[start:end], crowd[start:end], areas[start:end]
            records.append(ImageRecord(image.id, image.file, height, width, *own))
    return DetectionDataset(raw.source.root, raw.source.split, raw.source.format, raw.categories, tuple(records))


def _checked_size(image: RawImage, found: tuple[int, int] | UserError, log: FaultLog) -> tuple[int, int]:
    """Returns the image's true size, or (0, 0) for an image that cannot be read."""
    if isinstance(found, UserError):
        log.add_error(FaultKind.UNREADABLE_IMAGE, found)
        return 0, 0
    if image.recorded is not None and image.recorded != found:
        height, width = image.recorded
        reason = "correct the recorded size, or restore the image that the boxes were drawn on"
        if image.recorded == found[::-1]:
            reason = "the two are swapped, as when boxes were drawn without or the image saved without its EXIF "
            reason += "orientation; record the size and the boxes of the upright image"
        recorded = f"the size is recorded as {width} x {height} (width x height)"
        problem = f"{recorded}, but {image.file} is {found[1]} x {found[0]}: {reason}"
        log.add(FaultKind.WRONG_SIZE, image.annotations, image.item, problem)
    return found


def _log_boxes(raw: RawSplit, rows: np.ndarray, kind: FaultKind, problem: str, log: FaultLog) -> None:
    faults = []
    for row in rows[:EXAMPLES].tolist():
        image, numbers = raw.images[raw.owners[row]], ", ".join(f"{value:g}" for value in raw.boxes[row])
        unit = " as fractions of the image's sides" if raw.fractions else ""
        what = f"the box x1, y1, x2, y2 = {numbers}{unit} of {image.file.name} {problem}"
        faults.append(Fault(kind, image.annotations, raw.items[row], what))
    log.add_many(kind, len(rows), faults)


def _limit_faulty(
    raw: RawSplit, rows: np.ndarray, verdict: np.ndarray, sizes: np.ndarray, log: FaultLog, most: float
) -> None:
    faulty = int((verdict >= OVERFLOW).sum())
    if faulty > most * len(verdict):
        kinds = [kind for kind in FAULTY_BOX if log.counts[kind]]
        listed = ", ".join(f"{log.counts[kind]} {kind.key}" for kind in kinds)
        first = log.examples[max(kinds, key=lambda kind: log.counts[kind])][0]
        item = f"{first.item} of {first.file}" if first.file != raw.source.annotations else first.item
        listed = f"({listed}; for example {item})"
        which = f"{faulty} of the {len(verdict)} boxes of split {raw.source.split} are faulty {listed}"
        way_out = "mend them, or allow more by --max_faulty_boxes (in training --data.max_faulty_boxes)"
        problem = f"{which}, more than the allowed share of {most:.3g}; {_unit(raw, rows, sizes)}{way_out}"
        log.add(FaultKind.TOO_MANY_FAULTY_BOXES, raw.source.annotations, "", problem)


def _unit(raw: RawSplit, rows: np.ndarray, sizes: np.ndarray) -> str:
    """Returns in what form COCO's boxes (N, 4) seem to be, to begin the way out with; mostly nothing."""
    if raw.source.format == "coco":
        boxes: np.ndarray = np.array([raw.boxes[row] for row in rows.tolist()], dtype=np.float64)  # x y x+w y+h
        with np.errstate(invalid="ignore", over="ignore"):
            ends = boxes[:, 2:] - boxes[:, :2]  # the last two numbers as they are given
        if (ends > boxes[:, :2]).all() and (ends <= sizes[:, ::-1] + CLIP_PIXELS).all():
            return "they look like x1, y1, x2, y2 where COCO has x, y, width, height; "
    return ""
