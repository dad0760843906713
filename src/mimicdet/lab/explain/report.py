"""Pictures and tables of ``mimicdet explain``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from mimicdet.data.dataset import DetectionDataset, ImageRecord
from mimicdet.data.decode import read_image
from mimicdet.errors import UserError
from mimicdet.files import make_folder, replace_file
from mimicdet.lab.explain.alignment import (
    Sight,
    look_at_objects,
    require_alignment,
    summarise,
)
from mimicdet.lab.explain.picture import choose_objects, draw_alignment
from mimicdet.predict.detector import Detector
from mimicdet.report.table import table

Seen = list[list[Sight | None]]
"""Of each image, of each of its objects."""

_OF_ALL = "Both are means over the objects that all models found."


def explain_alignment(
    detectors: Mapping[str, Detector],
    dataset: DetectionDataset,
    out: Path,
    *,
    pictures: int,
    objects: int,
    images: Sequence[str] = (),
    progress: bool = False,
) -> str:
    """Writes alignment.md, alignment.csv and a PNG for each of some images; returns the table as text.

    Args:
        detectors: by name, one or several that know the data set's classes.
        dataset: its images are looked at.
        out: folder, made where there is none.
        pictures: how many images are drawn, the first ones with objects that all detectors found.
        objects: how many objects of each.
        images: these are drawn instead, by their files' names or stems.

    Raises:
        UserError: what ``look_at_objects`` raises, a name that no image has, and a folder that cannot be written.
    """
    chosen = _choose_images(dataset, images) if images else dataset.images
    for name, detector in detectors.items():
        require_alignment(detector, name)
    make_folder(out)
    seen: dict[str, Seen] = {
        name: [sights for _, sights in look_at_objects(detector, dataset, progress=progress)]
        for name, detector in detectors.items()
    }
    named = dict(zip(_short(list(seen)), seen.values(), strict=True))
    header, rows = _summary(named)
    files = _draw(dataset.images, named, out, objects, wanted=chosen, limit=len(chosen) if images else pictures)
    few = bool(images) and len(files) < len(chosen)
    drawn = "".join(f"![{file}]({file})\n\n" for file in files)
    about = (
        f"{dataset.split} of {dataset.root.name}: {len(dataset)} images. For each object the position whose adjusted "
        "box overlaps it best; found: by half at least. Inside: share of the points the alignment layer reads that "
        f"lie in the adjusted box. IoU: of the points' convex hull with that box. {_OF_ALL if len(named) > 1 else ''}"
    )
    markdown = f"## Alignment\n\n{about}\n\n{table(header, rows, style='markdown')}\n\n{drawn}"
    if drawn:
        markdown += "White: the object. Blue: the adjusted box. Points: yellow inside it, red outside.\n"
    replace_file(out / "alignment.md", markdown.encode())
    replace_file(out / "alignment.csv", _csv(dataset, seen).encode())
    return table(header, rows) + ("\n\nNot all are drawn: only objects that all models found are" if few else "")


def _short(names: Sequence[str]) -> list[str]:
    """Paths without the parts that all of them begin or end with; of a single one the last part that tells of it."""
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
    """A row for each model and one for each of its levels."""
    header = ["model", "objects", "found", "points inside", "IoU of the hull"]
    objects = {name: [sight for image in images for sight in image] for name, images in seen.items()}
    by_all = [all(sights) for sights in zip(*objects.values(), strict=True)]
    rows = []
    for name, sights in objects.items():
        compared = [sight for sight, found in zip(sights, by_all, strict=True) if found and sight is not None]
        rows.append([name, *_cells(sights, compared)])
        for level in sorted({sight.level for sight in compared}):
            own = [sight for sight in compared if sight.level == level]
            rows.append([f"  P{level}", "", *_cells(own, own)[1:]])
    return header, rows


def _cells(sights: Sequence[Sight | None], compared: Sequence[Sight]) -> list[str]:
    def share(value: float, form: str) -> str:
        return "-" if value != value else format(value, form)

    found, summary = sum(sight is not None for sight in sights), summarise(compared)
    return [str(len(sights)), str(found), share(summary.inside, ".1%"), share(summary.overlap, ".3f")]


def _draw(
    images: Sequence[ImageRecord], seen: Mapping[str, Seen], out: Path, objects: int, *,
    wanted: Sequence[ImageRecord], limit: int,
) -> list[str]:  # fmt: skip
    """Names of the files written: for the first ``limit`` of the wanted images with objects that all models found."""
    written: list[str] = []
    for i, record in enumerate(images):
        if len(written) == limit:
            break
        if record not in wanted:
            continue
        columns = [(name, sights[i]) for name, sights in seen.items()]
        chosen = choose_objects([column for _, column in columns], objects)
        if not chosen:
            continue
        name = f"{len(written) + 1:02}-{record.file.stem}.png"
        _save(draw_alignment(read_image(record.file), columns, chosen), out / name)
        written.append(name)
    return written


def _save(picture: Image.Image, file: Path) -> None:
    content = io.BytesIO()
    picture.save(content, "PNG")
    replace_file(file, content.getvalue())


def _csv(dataset: DetectionDataset, seen: Mapping[str, Seen]) -> str:
    """A row for each model and object that it found."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "file", "class", "level", "x1", "y1", "x2", "y2", "points_inside", "hull_iou"])
    names = [category.name for category in dataset.categories]
    for model, images in seen.items():
        for record, sights in zip(dataset.images, images, strict=True):
            labels = record.labels[~record.crowd].tolist()
            for label, sight in zip(labels, sights, strict=True):
                if sight is not None:
                    box = [f"{value:.2f}" for value in sight.adjusted_box]
                    numbers = [f"{sight.inside:.4f}", f"{sight.overlap:.4f}"]
                    writer.writerow([model, record.file.name, names[label], f"P{sight.level}", *box, *numbers])
    return text.getvalue()
