"""Predicts files, folders and data sets, to COCO results and pictures with boxes: behind the ``predict`` command."""

import glob
import json
import math
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mimicdet.arguments import checked, path_of
from mimicdet.data.dataset import Category, DetectionDataset, match_classes
from mimicdet.data.decode import IMAGE_SUFFIXES, image_size, images_among, list_images, read_image
from mimicdet.data.folders import glob_files, walk_files
from mimicdet.data.photograph import Photograph, is_large
from mimicdet.data.sound import require_sound
from mimicdet.errors import UserError, near_path
from mimicdet.files import failures_of, fitting_name, make_folder, real_path, replace_file, require_writable
from mimicdet.predict.detector import Detection, Detector
from mimicdet.report.draw import draw_boxes, encoded, is_drawn
from mimicdet.report.fonts import numbered_names
from mimicdet.streams import require_plain

_READ_AHEAD, _PIXELS_AHEAD = 4, 50_000_000
"""So many files are read ahead, if they have no more pixels together."""
_HELD = 50_000_000
"""So many pixels are held until boxes are drawn on them; other files are read again."""
_LARGE_PICTURE = 8192
"""A large photograph is drawn with a longer side of this at most."""
_NAMED_FAILURES = 5


@dataclass(frozen=True)
class PredictSummary:
    """Sums up what ``predict_files`` did."""

    images: int  # those that were looked at
    detections: int
    failures: tuple[str, ...]  # a sentence for each image that could not be read; the others were predicted and written
    unwritten: tuple[str, ...] = ()  # a sentence for each picture that could not be; what was found is in the JSON file
    own_pictures: int = 0  # in folders and behind globs, drawn by an earlier prediction and left out

    def complaint(self) -> str | None:
        """Puts the failures into one sentence that names the first few; None without any."""
        read = _told(self.failures, f"of {self.images + len(self.failures)} images could not be read")
        drawn = _told(self.unwritten, f"of {self.images} pictures could not be written, and all else was")
        return "; ".join(filter(None, (read, drawn))) or None


def _told(failures: Sequence[str], what: str) -> str:
    more = len(failures) - _NAMED_FAILURES
    named = "; ".join(failures[:_NAMED_FAILURES]) + (f"; and {more} more" if more > 0 else "")
    return f"{len(failures)} {what}: {named}" if failures else ""


@checked()
def predict_files(
    detector: Detector,
    sources: Sequence[str | PathLike[str]],
    *,
    json_file: Path | None = None,
    pictures: Path | None = None,
    dataset: DetectionDataset | None = None,
    tile: int | None = None,
    overlap: float = 0.25,
    score_threshold: float | None = None,
    picture_threshold: float = 0.3,
    progress: bool = False,
) -> PredictSummary:
    """Detects in files, folders and globs, and writes what it finds.

    Args:
        sources: see ``find_images``; empty with ``dataset`` means all its images.
        json_file: gets COCO results: a list with a row for each detection, ``image_id``, ``category_id``, ``bbox``
            (x, y, width, height in pixels), ``score``, and also ``file_name`` and ``category_name``. Image ids
            number the files found from 1, category ids are the model's own, unless a data set is given. A file to
            which the data set gives several ids has its rows under each.
        pictures: folder that gets a JPEG of each image with the boxes drawn, named as the image; and with the
            objects, dashed, where a data set is given. Class names that no font here has are drawn as numbers, which
            ``classes.txt`` beside the pictures explains.
        dataset: its image ids and category ids are used, so that the results can be evaluated against it.
        tile, overlap, score_threshold: see ``Detector.stream``.
        picture_threshold: detections with at least this score are drawn.

    Returns:
        Counts, and a sentence for each image that could not be read and each picture that could not be written: one
        does not stop the others, and ``json_file`` has all that was found.

    Raises:
        UserError: a source that is not there, an image that the data set does not have, a ``json_file`` or a folder
            that cannot be written or would overwrite an image, and what ``Detector.stream`` raises.
    """
    if dataset is not None:
        require_sound(dataset)
    found = _Found(pictures)
    files, ids = _numbered(sources, dataset, found)
    if dataset is not None:
        dataset = match_classes(dataset, detector.categories)
    categories = detector.categories if dataset is None else dataset.categories
    names = _picture_names(files, pictures) if pictures is not None else {}
    if json_file is not None:
        if real_path(json_file) in map(real_path, files):
            raise UserError(f"{json_file} is an image to detect in; results would overwrite it: name another file")
        make_folder(json_file.parent)  # now, not when all the work is done
        require_writable(json_file)
    truth = {} if dataset is None else {record.id: record for record in dataset.images}
    failures: list[str] = []
    unwritten: list[str] = []
    read: deque[tuple[Path, np.ndarray | None]] = deque()  # images on their way, with pixels to draw on
    large: list[tuple[Path, Photograph]] = []  # the next image, where it is predicted apart
    reads = _read_ahead(files, tiled=tile is not None)

    def images() -> Iterator[np.ndarray]:
        for file, pixels in reads:
            if isinstance(pixels, UserError):
                failures.append(str(pixels))
            elif isinstance(pixels, Photograph):
                large.append((file, pixels))
                return
            else:
                held = sum(0 if other is None else other.size // 3 for _, other in read)
                keep = pictures is not None and held + pixels.size // 3 <= _HELD
                read.append((file, pixels if keep else None))
                yield pixels
            del pixels  # before the next is read

    def draw(file: Path, pixels: np.ndarray | Photograph | None, result: Detection, classes: np.ndarray) -> None:
        boxes, scores = result["boxes"].numpy(), result["scores"].numpy()
        pixels = read_image(file) if pixels is None else pixels
        pixels, step = pixels.overview(_LARGE_PICTURE) if isinstance(pixels, Photograph) else (pixels, 1)
        objects = [truth[image_id] for image_id in ids[file] if image_id in truth]
        shown = scores >= picture_threshold
        true: dict[str, Any] = {}
        if objects:
            true["truth_boxes"] = np.concatenate([record.boxes[~record.crowd] for record in objects]) / step
            true["truth_labels"] = np.concatenate([record.labels[~record.crowd] for record in objects])
        picture = draw_boxes(
            pixels,
            boxes[shown] / step,
            classes[shown],
            class_names=[category.name for category in categories],
            scores=scores[shown],
            **true,
        )
        try:
            content = encoded(picture, "JPEG")
        except (OSError, ValueError) as error:  # JPEG has no sides above 65,500 pixels
            raise UserError(f"{names[file]} cannot be written as JPEG ({error}); --json gets what was found") from error
        replace_file(names[file], content)

    index = {category.id: k for k, category in enumerate(detector.categories)}
    rows: list[dict[str, Any]] = []
    count = 0
    options: dict[str, Any] = {"tile": tile, "overlap": overlap, "score_threshold": score_threshold}

    def take(file: Path, pixels: np.ndarray | Photograph | None, result: Detection) -> None:
        nonlocal count
        classes = np.array([index[label] for label in result["labels"].tolist()], dtype=np.int64)  # (N,)
        for image_id in ids[file]:
            rows.extend(_coco_rows(result, classes, categories, image_id, file))
        if pictures is not None:
            unwritten.extend(failures_of(partial(draw, file, pixels, result, classes)))
        count += 1
        bar.update(count + len(failures) - bar.n)

    with tqdm(total=len(files), desc="predict", unit="image", leave=False, disable=not progress) as bar:
        while True:
            for result in detector.stream(images(), **options):
                take(*read.popleft(), result)
            if not large:
                break
            file, photograph = large.pop()
            try:  # its pixels are read meanwhile, and may turn out to be damaged
                apart: Any = [photograph]
                take(file, photograph, *detector.stream(apart, **options))
            except UserError as error:
                failures.append(str(error))
        bar.update(count + len(failures) - bar.n)
    if json_file is not None:
        write_results(json_file, rows)
    if pictures is not None and (numbered := numbered_names([category.name for category in categories])):
        content = numbered.encode(errors="backslashreplace")
        unwritten += failures_of(partial(replace_file, pictures / "classes.txt", content))
    how_many = {"images": count, "detections": len(rows), "own_pictures": len(found.own)}
    return PredictSummary(**how_many, failures=tuple(failures), unwritten=tuple(unwritten))


class _Found:
    """Collects image files by their places, in order, and apart those that an earlier prediction drew."""

    def __init__(self, leave_out: Path | None) -> None:
        self.files: dict[Path, Path] = {}
        self.own: set[Path] = set()
        self._leave_out = None if leave_out is None else real_path(leave_out)

    def without_results(self, files: list[Path]) -> list[Path]:
        """Returns the files less earlier results. Where nothing else is left, they were meant."""
        if self._leave_out is not None:
            files = [p for p in files if not real_path(p).is_relative_to(self._leave_out)] or files
        own = {file for file in files if is_drawn(file)}
        if len(own) == len(files):
            return files
        self.own |= set(map(_place, own))
        return [file for file in files if file not in own]


def _place(file: Path) -> Path:
    """The folder that a file really lies in, and the name that it has there: a link is another one than its target."""
    return real_path(file.parent) / file.name


def find_images(sources: Sequence[str | PathLike[str]], *, leave_out: Path | None = None) -> list[Path]:
    """Finds the image files that were meant, in the order given, each once; a link to one is another.

    Args:
        sources: files (whatever their suffix), folders (the images in them and in their subfolders, by suffix), and
            globs such as ``photos/**/*.jpg``. What a folder or a glob gives is in natural order: 2 before 10. Pictures
            that mimicdet drew are not taken from there, unless there is nothing else.
        leave_out: a folder whose images are not taken from folders and globs, such as one with earlier results.

    Raises:
        UserError: there is no such file, or no image in a folder or behind a glob.
    """
    found = _Found(leave_out)
    _find(sources, found)
    return list(found.files.values())


def _find(sources: Sequence[str | PathLike[str]], found: _Found) -> None:
    for given in sources:
        source, path = str(given), path_of(given, "a source of images")
        if path.is_file():
            chosen = [path]
        else:
            if path.is_dir():
                chosen = list_images(path)
            elif glob.has_magic(source):
                chosen = images_among(glob_files(source))[0]
            else:
                require_plain(path)
                raise UserError(
                    f"{source}: there is no such file or folder{near_path(path)}; correct the path, or quote a glob"
                )
            chosen = found.without_results(chosen)
            if not chosen:
                where = "in this folder or its subfolders" if path.is_dir() else "behind this pattern"
                raise UserError(f"{source}: there is no image {where} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})")
        for file in sorted(chosen, key=_natural):
            found.files.setdefault(_place(file), file)


def files_left_out(sources: Sequence[str | PathLike[str]]) -> list[Path]:
    """Returns what ``find_images`` leaves out although it may be an image, because its name does not end as one's."""
    found: list[Path] = []
    for source in map(Path, sources):
        if not source.is_file():
            found += images_among(walk_files(source) if source.is_dir() else glob_files(str(source)))[1]
    return found


def write_results(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Writes COCO results, a row a line, whole or not at all; makes the folder where need be."""
    lines = ",\n".join(json.dumps(row, allow_nan=False) for row in rows)
    make_folder(file.parent)
    replace_file(file, f"[\n{lines}\n]\n".encode() if lines else b"[]\n")


def _numbered(
    sources: Sequence[str | PathLike[str]], dataset: DetectionDataset | None, found: _Found
) -> tuple[list[Path], dict[Path, list[int]]]:
    """Returns the files to detect in, each once, and the ids of each: several where a data set gives it several."""
    if sources or dataset is None:
        _find(sources, found)
    if dataset is None:
        files = list(found.files.values())
        if not files:
            raise UserError("there is nothing to predict; name image files, folders or globs")
        return files, {file: [number] for number, file in enumerate(files, start=1)}
    known: dict[Path, list[int]] = {}
    for record in dataset.images:
        known.setdefault(record.file if not sources else real_path(record.file), []).append(record.id)
    if not sources:
        return list(known), known
    images: dict[Path, Path] = {}  # here a file and links to it are one, lest its id have each detection twice
    for file in found.files.values():
        if (real := real_path(file)) not in known and os.path.exists(file):
            raise UserError(
                f"{file}: is not an image of split {dataset.split!r} of {dataset.root}; leave it out, or predict "
                "without the data set"
            )
        images.setdefault(real, file)
    ids = {file: known.get(real, []) for real, file in images.items()}  # none of a link that leads nowhere
    return list(ids), ids


_Read = np.ndarray | Photograph | UserError


def _read_ahead(files: Sequence[Path], *, tiled: bool) -> Iterator[tuple[Path, _Read]]:
    """The pixels of each file, or what is wrong with it; a few files are decoded while the detector works.

    A large photograph comes as such where images are ``tiled``.
    """

    def read(file: Path) -> _Read:
        try:
            return Photograph(file) if tiled and is_large(file) else read_image(file)
        except UserError as error:
            return error

    waiting: deque[tuple[Path, int, Future[_Read]]] = deque()

    def first() -> tuple[Path, _Read]:  # nothing here keeps the pixels
        file, _, future = waiting.popleft()
        return file, future.result()

    with ThreadPoolExecutor(max_workers=_READ_AHEAD, thread_name_prefix="read") as pool:
        try:
            for file in files:
                try:
                    pixels = math.prod(image_size(file))
                except UserError:  # reading says what is wrong
                    pixels = 0
                while len(waiting) > _READ_AHEAD or (
                    waiting and sum(n for _, n, _ in waiting) + pixels > _PIXELS_AHEAD
                ):
                    yield first()
                waiting.append((file, pixels, pool.submit(read, file)))
            while waiting:
                yield first()
        finally:  # also when the reader stops early
            for _, _, future in waiting:
                future.cancel()


def _coco_rows(
    result: Detection, classes: np.ndarray, categories: Sequence[Category], image_id: int, file: Path
) -> list[dict[str, Any]]:
    image = {"image_id": image_id, "file_name": str(file)}
    named = [{"category_id": categories[k].id, "category_name": categories[k].name} for k in classes.tolist()]
    boxes = [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in result["boxes"].tolist()]
    found = zip(named, boxes, result["scores"].tolist(), strict=True)
    return [{**image, **name, "bbox": box, "score": score} for name, box, score in found]


def _picture_names(files: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Gives a number to the second and later of files with the same name."""
    real = real_path(folder)
    if beside := next((file for file in files if real in (_place(file).parent, real_path(file).parent)), None):
        raise UserError(f"{folder}: pictures would lie among the images, such as {beside.name}; choose another folder")
    make_folder(folder)
    taken: set[str] = set()
    names: dict[Path, Path] = {}
    for file in files:
        name, number = fitting_name("", file.stem, ".jpg"), 1
        while name.casefold() in taken:
            number += 1
            name = fitting_name("", file.stem, f"-{number}.jpg")
        taken.add(name.casefold())
        names[file] = folder / name
    return names


def _natural(file: Path) -> tuple[list[str | int], str]:
    """A key that sorts names as people do: image2 before image10, and the same in any case."""
    parts = re.split(r"(\d+)", str(file).casefold())  # text and numbers in turn, so that like meets like
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], str(file)
