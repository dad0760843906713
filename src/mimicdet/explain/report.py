"""Pictures and tables of ``mimicdet explain``."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from mimicdet.data.dataset import DetectionDataset, ImageRecord
from mimicdet.data.decode import read_image
from mimicdet.explain.alignment import (
    Sight,
    Summary,
    look_at_objects,
    require_alignment,
    summarise,
)
from mimicdet.explain.picture import choose_objects, draw_alignment
from mimicdet.files import make_folder, replace_file
from mimicdet.predict.detector import Detector
from mimicdet.report.table import table

Seen = list[list[Sight | None]]
"""Of each image, of each of its objects."""


def explain_alignment(
    detectors: Mapping[str, Detector],
    dataset: DetectionDataset,
    out: Path,
    *,
    pictures: int,
    objects: int,
    progress: bool = False,
) -> str:
    """Writes alignment.md, alignment.csv and a PNG for each of some images; returns the table as text.

    Args:
        detectors: by name, one or several that know the data set's classes.
        dataset: its images are looked at.
        out: folder, made where there is none.
        pictures: how many images are drawn.
        objects: how many objects of each.

    Raises:
        UserError: what ``look_at_objects`` raises, and a folder that cannot be written.
    """
    for name, detector in detectors.items():
        require_alignment(detector, name)
    make_folder(out)
    seen: dict[str, Seen] = {
        name: [sights for _, sights in look_at_objects(detector, dataset, progress=progress)]
        for name, detector in detectors.items()
    }
    names = _short(list(seen))
    header, rows = _summary(dict(zip(names, seen.values(), strict=True)))
    files = _draw(dataset.images, dict(zip(names, seen.values(), strict=True)), out, pictures, objects)
    drawn = "".join(f"![{file}]({file})\n\n" for file in files)
    about = (
        f"{dataset.split} of {dataset.root.name}: {len(dataset)} images. For each object the position whose adjusted "
        "box overlaps it best; found: by half at least. Inside: share of the points the alignment layer reads that "
        "lie in the adjusted box. IoU: of the points' convex hull with that box."
    )
    markdown = f"## Alignment\n\n{about}\n\n{table(header, rows, style='markdown')}\n\n{drawn}"
    if drawn:
        markdown += "White: the object. Blue: the adjusted box. Points: yellow inside it, red outside.\n"
    replace_file(out / "alignment.md", markdown.encode())
    replace_file(out / "alignment.csv", _csv(dataset, seen).encode())
    return table(header, rows)


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


def _summary(seen: Mapping[str, Seen]) -> tuple[list[str], list[list[str]]]:
    header = ["model", "objects", "found", "points inside", "IoU of the hull"]
    rows = []
    for name, images in seen.items():
        everything = [sight for image in images for sight in image]
        rows.append([name, *_cells(summarise(everything))])
        levels = sorted({sight.level for sight in everything if sight is not None})
        for level in levels:
            own = [s for s in everything if s is not None and s.level == level]
            rows.append([f"  P{level}", "", *_cells(summarise(own))[1:]])
    return header, rows


def _cells(summary: Summary) -> list[str]:
    def share(value: float, form: str) -> str:
        return "-" if value != value else format(value, form)

    return [str(summary.objects), str(summary.found), share(summary.inside, ".1%"), share(summary.overlap, ".3f")]


def _draw(images: Sequence[ImageRecord], seen: Mapping[str, Seen], out: Path, pictures: int, objects: int) -> list[str]:
    """Names of the files written."""
    written: list[str] = []
    for i, record in enumerate(images):
        if len(written) == pictures:
            break
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
