"""Defines the faults of a data set: their kinds, and the log they are counted in."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from pathlib import Path

from mimicdet.errors import UserError, message, one_line

EXAMPLES = 5
"""So many faults of one kind are kept in full; the rest are only counted."""


class FaultKind(Enum):
    """A kind of fault has a key for reports and a title, and stops training or does not.

    A note is no fault at all: it counts what is left unused, with one sentence for all of it.
    """

    def __init__(self, key: str, stops: bool, title: str, note: bool = False) -> None:
        self.key, self.stops, self.title, self.note = key, stops, title, note

    BROKEN_FILE = "broken_file", True, "annotation files that cannot be read"
    BROKEN_RECORD = "broken_record", True, "records with a missing or malformed field"
    NO_IMAGES = "no_images", True, "splits without images"
    MISSING_IMAGE = "missing_image", True, "image files that are missing"
    OUTSIDE_FILE = "outside_file", True, "files outside the data set that its annotations name"
    MISSING_ANNOTATION = "missing_annotation", True, "annotation files that are missing"
    UNREADABLE_IMAGE = "unreadable_image", True, "images that are truncated, damaged or too large"
    WRONG_SIZE = "wrong_size", True, "images whose size differs from the recorded one"
    DUPLICATE_IMAGE = "duplicate_image", True, "images recorded twice"
    SHARED_LABELS = "shared_labels", True, "label files that several images share"
    DUPLICATE_ANNOTATION = "duplicate_annotation", True, "annotation ids used twice"
    UNKNOWN_IMAGE = "unknown_image", True, "annotations of an image that is not listed"
    UNKNOWN_CATEGORY = "unknown_category", True, "objects of an unknown category"
    CATEGORIES_DIFFER = "categories_differ", True, "categories that differ between splits"
    TOO_MANY_FAULTY_BOXES = "too_many_faulty_boxes", True, "splits with too many faulty boxes"
    FRACTIONS = "fractions", True, "splits whose boxes are fractions of the image's sides, not pixels"
    BOX_NOT_FINITE = "box_not_finite", False, "boxes with a coordinate that is NaN or infinite (dropped)"
    BOX_INVERTED = "box_inverted", False, "boxes that end before they begin (dropped)"
    BOX_NO_AREA = "box_no_area", False, "boxes without area (dropped)"
    BOX_OUTSIDE = "box_outside", False, "boxes wholly outside their image (dropped)"
    BOX_OVERFLOW = "box_overflow", False, "boxes far over the image's border (clipped)"
    BOX_FRACTION = "box_fraction", False, "boxes within the first pixel, as fractions of the image's sides are (kept)"
    BOX_BELOW_PIXEL = "box_below_pixel", False, "objects with a side below one pixel (kept)"
    BOX_CLIPPED = "box_clipped", False, "boxes slightly over the image's border (clipped)"
    DUPLICATE_OBJECT = "duplicate_object", False, "objects listed twice (same class, same box; kept)"
    POLYGON = "polygon", False, "polygons (their bounding boxes are used)"
    MAYBE_KEYPOINTS = "maybe_keypoints", False, "polygons that may be keypoint labels (read as polygons)"
    KEYPOINTS = "keypoints", False, "objects with keypoints (only their boxes are used)"
    STALE_NAME = "stale_name", False, "files whose <filename> differs from their own name"
    DIFFICULT = "difficult", False, "objects marked difficult (ignored, like COCO's crowd)"
    NO_LABEL_FILE = "no_label_file", False, "images without a label file (read as images without objects)"
    NO_ANNOTATION = "no_annotation", False, "images without an annotation file (left out)"
    MISNAMED_LABELS = "misnamed_labels", False, "label files whose names do not end in .txt (not read)"
    OTHER_JSON = "other_json", False, "JSON files named like a split that hold no annotations (left out)"
    LEFT_OUT = "left_out", False, "files beside the images whose names do not end as an image's (left out)"
    HEADING = "heading", False, "categories that are only headings of others (left out)"
    SHARED_IMAGE = "shared_image", False, "image files recorded under several ids"
    ODD_BOXES = "odd_boxes", False, "splits whose boxes look wrong as a whole"
    NO_OBJECTS = "no_objects", False, "splits without objects"
    UNUSED_CATEGORY = "unused_category", False, "categories without objects"
    SIMILAR_CATEGORIES = "similar_categories", False, "categories whose names differ in case or spacing only"
    UNUSED = "unused", False, "values beside the boxes that detection does not use", True
    UNLISTED = "unlisted", False, "images and annotation files in the data set's folders that no split lists", True
    NO_PATH = "no_path", False, "YAML files whose `path` does not exist (their own folder is searched)", True


_FAULTY_BOX = ("box_not_finite", "box_inverted", "box_no_area", "box_outside", "box_overflow")
FAULTY_BOX = tuple(kind for kind in FaultKind if kind.key in _FAULTY_BOX)
"""`--data.max_faulty_boxes` limits the share of these among all boxes. Small overflows are not among them."""


@dataclass(frozen=True)
class Fault:
    """A fault says where something is wrong, what, and how to mend it."""

    kind: FaultKind
    file: Path
    item: str  # "annotation 17", "line 3", ...; empty where the whole file is meant
    problem: str

    def sentence(self) -> str:
        """Returns the fault as one sentence that begins with the file."""
        item = f"{one_line(self.item)}: " if self.item else ""
        return message(f"{self.file}: {item}{self.problem}")


@dataclass
class FaultLog:
    """A log counts all faults by kind, and keeps the first few of each kind."""

    counts: Counter[FaultKind] = field(default_factory=Counter)
    examples: dict[FaultKind, list[Fault]] = field(default_factory=dict)

    def add(self, kind: FaultKind, file: Path, item: str, problem: str) -> None:
        """Counts a fault; the arguments are the fields of `Fault`."""
        self.add_many(kind, 1, [Fault(kind, file, item, problem)])

    def keeps(self, kind: FaultKind) -> bool:
        """Says whether one more fault of this kind would be kept in full, so that what is slow to say is worth it."""
        return len(self.examples.get(kind, ())) < EXAMPLES

    def add_many(self, kind: FaultKind, count: int, first: Iterable[Fault]) -> None:
        """Counts ``count`` faults, of which ``first`` yields at least the first few."""
        if count:
            self.counts[kind] += count
            kept = self.examples.setdefault(kind, [])
            kept += islice(first, EXAMPLES - len(kept))

    def add_error(self, kind: FaultKind, error: UserError) -> None:
        """Counts a UserError, whose message begins with the file's name and a colon."""
        file, _, problem = str(error).partition(": ")
        self.add(kind, Path(file), "", problem)

    def merge(self, other: "FaultLog") -> None:
        """Counts the faults of another log too."""
        for kind, count in other.counts.items():
            self.add_many(kind, count, other.examples[kind])

    def first_error(self) -> Fault | None:
        """Returns the first fault that stops training, in the order of the kinds above, None if there is none."""
        return next((self.examples[kind][0] for kind in FaultKind if kind.stops and self.counts[kind]), None)

    def count_errors(self) -> int:
        """Returns the number of faults that stop training."""
        return sum(count for kind, count in self.counts.items() if kind.stops)
