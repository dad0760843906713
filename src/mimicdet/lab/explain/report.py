"""Writes pictures and tables of ``mimicdet explain``."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from mimicdet.data.dataset import DetectionDataset, ImageRecord
from mimicdet.data.decode import read_image
from mimicdet.errors import UserError
from mimicdet.files import make_folder, replace_file
from mimicdet.lab.explain.alignment import Sight, look_at_objects, require_alignment, summarise
from mimicdet.lab.explain.picture import choose_objects, draw_alignment
from mimicdet.predict.detector import Detector
from mimicdet.report.table import table

Seen = list[list[Sight | None]]
"""A model's sight of each object of each image; None where it is not found."""


def explain_alignment(
    detectors: dict[str, Detector], dataset: DetectionDataset, out: Path, *, pictures: int | Sequence[str], objects: int
) -> str:
    """Writes alignment.md, alignment.csv and a PNG for each of some images; returns the table as text.

    Of the first ``pictures`` images with objects that all detectors found, or of those with these files' names or
    stems, so many ``objects`` are drawn.

    Raises:
        UserError: an error of ``look_at_objects``, a name that no image has, or a folder that cannot be written.
    """
    chosen = dataset.images if isinstance(pictures, int) else _choose_images(dataset, pictures)
    limit = pictures if isinstance(pictures, int) else len(chosen)
    for name, detector in detectors.items():
        require_alignment(detector, name)
    make_folder(out)
    seen = {name: [sights for _, sights in look_at_objects(one, dataset)] for name, one in detectors.items()}
    named = dict(zip(_short(list(seen)), seen.values(), strict=True))
    header, rows = _summary(named)
    files = _draw(named, dataset, chosen, out, objects, limit)
    of_all = "Both are means over the objects that all models found." if len(named) > 1 else ""
    about = (
        f"{dataset.split} of {dataset.root.name}: {len(dataset)} images. For each object the position whose adjusted "
        "box overlaps it best; found: by half at least. Inside: share of the points the alignment layer reads that "
        f"lie in the adjusted box. IoU: of the points' convex hull with that box. {of_all}"
    )
    markdown = f"## Alignment\n\n{about}\n\n{table(header, rows, style='markdown')}\n\n"
    markdown += "".join(f"![{file}]({file})\n\n" for file in files)
    if files:
        markdown += "White: the object. Blue: the adjusted box. Points: yellow inside it, red outside.\n"
    replace_file(out / "alignment.md", markdown.encode())
    replace_file(out / "alignment.csv", csv_text(_rows_of_objects(dataset, seen)).encode())
    few = not isinstance(pictures, int) and len(files) < limit
    return table(header, rows) + ("\n\nNot all are drawn: only objects that all models found are" if few else "")


def _short(names: Sequence[str]) -> list[str]:
    """Returns paths without the parts that all begin or end with; of a single one the last part that tells of it."""
    parts = [Path(name).absolute().parts for name in names]
    if len(parts) == 1:
        kept = parts[0][:-1] if parts[0][-1] == "model" and len(parts[0]) > 1 else parts[0]
        return [kept[-1]]
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
    if not sights:
        return ["-", "-"]
    summary = summarise(sights)
    return [f"{summary.inside:.1%}", f"{summary.overlap:.3f}"]


def _draw(
    seen: dict[str, Seen], dataset: DetectionDataset, wanted: Sequence[ImageRecord], out: Path, objects: int, limit: int
) -> list[str]:
    """Draws the first ``limit`` wanted images with objects that all models found, and returns the files' names."""
    written: list[str] = []
    for record, *sights in zip(dataset.images, *seen.values(), strict=True):
        if len(written) == limit:
            break
        if record in wanted and (chosen := choose_objects(sights, objects)):
            content = io.BytesIO()
            draw_alignment(read_image(record.file), list(zip(seen, sights, strict=True)), chosen).save(content, "PNG")
            written.append(f"{len(written) + 1:02}-{record.file.stem}.png")
            replace_file(out / written[-1], content.getvalue())
    return written


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Returns rows as CSV, the header first."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


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
