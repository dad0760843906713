"""Writes tables and pictures of ``mimicdet explain``, such as the points that the S-head reads (Figure 3)."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from mimicdet.data.dataset import DetectionDataset, ImageRecord
from mimicdet.data.decode import read_image
from mimicdet.errors import UserError, one_line
from mimicdet.files import failures_of, fitting_name, make_folder, replace_file
from mimicdet.lab.explain.alignment import Sight, look_at_objects, require_alignment, summarise
from mimicdet.predict.detector import Detector
from mimicdet.report.draw import contact_sheet
from mimicdet.report.table import table

Seen = list[list[Sight | None]]
"""A model's sight of each object of each image; None where it is not found."""


def explain_alignment(
    detectors: dict[str, Detector], dataset: DetectionDataset, out: Path, *, pictures: int | Sequence[str], objects: int
) -> str:
    """Writes alignment.md, alignment.csv and a PNG for each of some images; returns the table as text.

    Of the first ``pictures`` images with objects that all detectors found, or of those with these files' names or
    stems, so many ``objects`` are drawn. UserError as ``look_at_objects``, and where no image has a name, or the folder
    cannot be written; where a picture cannot, after all the rest is.
    """
    chosen = dataset.images if isinstance(pictures, int) else _choose_images(dataset, pictures)
    limit = pictures if isinstance(pictures, int) else len(chosen)
    for name, detector in detectors.items():
        require_alignment(detector, name)
    make_folder(out)
    seen = {name: [sights for _, sights in look_at_objects(one, dataset)] for name, one in detectors.items()}
    named = dict(zip(_short(list(seen)), seen.values(), strict=True))
    header, rows = _summary(named)
    files, failures = _draw(named, dataset, chosen, out, objects, limit)
    of_all = "Both are means over the objects that all models found." if len(named) > 1 else ""
    about = (
        f"{dataset.split} of {one_line(dataset.root.name)}: {len(dataset)} images. "
        f"For each object the position whose adjusted "
        "box overlaps it best; found: by half at least. Inside: share of the points the alignment layer reads that "
        f"lie in the adjusted box. IoU: of the points' convex hull with that box. {of_all}"
    )
    markdown = f"## Alignment\n\n{about}\n\n{table(header, rows, style='markdown')}\n\n"
    markdown += "".join(f"![{file}]({file})\n\n" for file in files)
    if files:
        markdown += "White: the object. Blue: the adjusted box. Points: yellow inside it, red outside.\n"
    replace_file(out / "alignment.md", markdown.encode(errors="backslashreplace"))
    replace_file(out / "alignment.csv", csv_text(_rows_of_objects(dataset, seen)).encode())
    if failures:
        raise UserError(f"{'; '.join(failures)}; {out} has the tables and the other pictures")
    few = not isinstance(pictures, int) and len(files) < limit
    return table(header, rows) + ("\n\nNot all are drawn: only objects that all models found are" if few else "")


def _short(names: Sequence[str]) -> list[str]:
    """Returns paths without the parts that all begin or end with; of a single one the last part that tells of it."""
    parts = [Path(name).absolute().parts for name in names]
    if len(parts) == 1:
        return [parts[0][-2 if parts[0][-1] == "model" and len(parts[0]) > 1 else -1]]
    least = min(map(len, parts)) - 1  # of the shortest path a part stays
    start = next((i for i in range(least) if len({p[i] for p in parts}) > 1), least)
    end = next((i for i in range(least - start) if len({p[-1 - i] for p in parts}) > 1), least - start)
    return ["/".join(p[start : len(p) - end]) for p in parts]


def _choose_images(dataset: DetectionDataset, names: Sequence[str]) -> list[ImageRecord]:
    chosen = []
    for name in names:
        found = [record for record in dataset.images if name in (record.file.name, record.file.stem)]
        if not found:
            raise UserError(f"{dataset.root}: {dataset.split} has no image '{name}'; give a file's name")
        chosen += found
    return chosen


def _summary(seen: Mapping[str, Seen]) -> tuple[list[str], list[list[str]]]:
    """Returns the header, and a row for each model and for each of its levels."""
    header = ["model", "objects", "found", "points inside", "IoU of the hull"]
    objects = {name: [sight for image in images for sight in image] for name, images in seen.items()}
    by_all = [all(sights) for sights in zip(*objects.values(), strict=True)]
    rows = []
    for name, sights in objects.items():
        compared = [sight for sight, found in zip(sights, by_all, strict=True) if found and sight is not None]
        rows.append([name, str(len(sights)), str(sum(sight is not None for sight in sights)), *_means(compared)])
        for level in sorted({sight.level for sight in compared}):
            own = [sight for sight in compared if sight.level == level]
            rows.append([f"  P{level}", "", str(len(own)), *_means(own)])
    return header, rows


def _means(sights: Sequence[Sight]) -> list[str]:
    summary = summarise(sights)
    return [f"{summary.inside:.1%}", f"{summary.overlap:.3f}"] if sights else ["-", "-"]


def _draw(
    seen: dict[str, Seen], dataset: DetectionDataset, wanted: Sequence[ImageRecord], out: Path, objects: int, limit: int
) -> tuple[list[str], list[str]]:
    """Draws the first ``limit`` wanted images with objects that all models found.

    Returns the files' names, and a sentence for each that could not be written.
    """
    written: list[str] = []
    failures: list[str] = []
    for record, *sights in zip(dataset.images, *seen.values(), strict=True):
        if len(written) + len(failures) == limit:
            break
        if record in wanted and (chosen := choose_objects(sights, objects)):
            content = io.BytesIO()
            draw_alignment(read_image(record.file), list(zip(seen, sights, strict=True)), chosen).save(content, "PNG")
            name = fitting_name(f"{len(written) + len(failures) + 1:02}-", record.file.stem, ".png")
            failed = failures_of(partial(replace_file, out / name, content.getvalue()))
            failures += failed
            written += [] if failed else [name]
    return written, failures


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Returns rows as CSV, the header first; what UTF-8 cannot hold of a file's name is escaped."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="backslashreplace").decode()


def _rows_of_objects(dataset: DetectionDataset, seen: Mapping[str, Seen]) -> Iterator[list[object]]:
    """Yields the header, and a row for each model and object that it found."""
    yield ["model", "file", "class", "level", "x1", "y1", "x2", "y2", "points_inside", "hull_iou"]
    names = [category.name for category in dataset.categories]
    for model, images in seen.items():
        for record, sights in zip(dataset.images, images, strict=True):
            for label, sight in zip(record.labels[~record.crowd].tolist(), sights, strict=True):
                if sight is not None:
                    box = [f"{value:.2f}" for value in sight.adjusted_box]
                    numbers = [f"{sight.inside:.4f}", f"{sight.overlap:.4f}"]
                    yield [model, record.file.name, names[label], f"P{sight.level}", *box, *numbers]


_CELL = 360  # pixels, the side of an object's picture
_MARGIN = 0.35  # the room around an object, as a share of its longer side
_BOX, _OBJECT, _INSIDE, _OUTSIDE = (86, 180, 233), (255, 255, 255), (240, 228, 66), (213, 94, 0)
"""Colours of Okabe and Ito's palette: adjusted box, object, points inside the box and outside it."""


def choose_objects(sights: Sequence[Sequence[Sight | None]], count: int) -> list[int]:
    """Chooses at most ``count`` of an image's objects that every model found, from the smallest to the largest."""
    boxes = {i: column[0].box for i, column in enumerate(zip(*sights, strict=True)) if all(column)}
    found = sorted(boxes, key=lambda i: float(np.prod(boxes[i][2:] - boxes[i][:2])))
    spread = (found[round(k * (len(found) - 1) / max(count - 1, 1))] for k in range(count))
    return found if len(found) <= count else list(spread)


def draw_alignment(
    image: np.ndarray, columns: Sequence[tuple[str, Sequence[Sight | None]]], objects: Sequence[int]
) -> Image.Image:
    """Draws a row for each object and a column for each model.

    The image is (h, w, 3) uint8 RGB. A column has a model's name, and its sight of each of the image's objects;
    ``objects`` are the indices of those to draw, each found by all models.
    """
    cells, titles = [], []
    for i in objects:
        sights = [sight for _, column in columns if (sight := column[i]) is not None]
        view = _view(sights, image.shape[:2])
        for (name, _), sight in zip(columns, sights, strict=True):
            cells.append(_cell(image, sight, view))
            titles.append(f"{name}\n{sight.inside:.0%} inside, IoU {sight.overlap:.2f}")
    return contact_sheet(cells, titles=titles, columns=len(columns), cell=_CELL)


def _view(sights: Sequence[Sight], shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Returns a square around an object and its adjusted boxes, for all models, inside the image where it fits."""
    boxes = np.array([box for sight in sights for box in (sight.box, sight.adjusted_box)])
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    half = max(float((high - low).max()), 8.0) * (0.5 + _MARGIN)
    limits = np.array(shape[::-1])  # width, height
    start = np.minimum(np.maximum((low + high) / 2 - half, 0), np.maximum(limits - 2 * half, 0)).round().astype(int)
    end = np.minimum(start + round(2 * half), limits)
    return int(start[0]), int(start[1]), int(end[0]), int(end[1])


def _cell(image: np.ndarray, sight: Sight, view: tuple[int, int, int, int]) -> Image.Image:
    left, top, right, bottom = view
    scale = _CELL / max(right - left, bottom - top)
    crop = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    size = max(round(crop.width * scale), 1), max(round(crop.height * scale), 1)
    picture = crop.resize(size, Image.Resampling.LANCZOS)
    draw, origin = ImageDraw.Draw(picture), np.array([left, top])

    def frame(box: np.ndarray, color: tuple[int, int, int], width: int) -> None:
        (x1, y1), (x2, y2) = (box.reshape(2, 2) - origin) * scale
        draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=(0, 0, 0), width=width + 2)
        draw.rectangle((x1, y1, x2, y2), outline=color, width=width)

    frame(sight.box, _OBJECT, 1)
    frame(sight.adjusted_box, _BOX, 3)
    x1, y1, x2, y2 = sight.adjusted_box
    for x, y in sight.points:
        color = _INSIDE if x1 <= x <= x2 and y1 <= y <= y2 else _OUTSIDE
        px, py = ((x - left) * scale, (y - top) * scale)
        draw.ellipse((px - 5, py - 5, px + 5, py + 5), fill=color, outline=(0, 0, 0))
    return picture
