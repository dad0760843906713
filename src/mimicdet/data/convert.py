"""Writes a data set in another format; boxes, classes and splits survive to the last bit.

Each format can carry, beside images, boxes, class names and their order:

| | COCO | VOC | YOLO |
|---|---|---|---|
| category ids | kept | 1..K | 0..K-1 |
| image ids | kept | 1, 2, ... | 1, 2, ... |
| order of the images | kept | kept | by file name |
| crowd | kept | as `difficult` | left out, and counted |
| areas other than width x height | kept | lost | lost |
| split names | kept | kept | valid becomes val |

Images are copied unchanged. An image whose name is taken (VOC keeps all splits in one folder) gets its split's
name in front; one whose name the format cannot hold is refused. VOC output counts pixels from 0 and lists the
classes, in their order, in classes.txt.
"""

import shutil
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from mimicdet.arguments import checked
from mimicdet.data.dataset import DetectionDataset
from mimicdet.data.decode import IMAGE_SUFFIXES
from mimicdet.data.formats import coco, voc, yolo
from mimicdet.data.split_names import disjoint_splits, standard_name
from mimicdet.data.splits import find_splits, load_found, require_same_categories
from mimicdet.errors import UserError, message, one_line
from mimicdet.files import new_folder, require_empty

_WRITERS = {"coco": coco, "voc": voc, "yolo": yolo}


@dataclass(frozen=True)
class Conversion:
    """A conversion says where `convert_dataset` wrote a data set, and how much of it."""

    out: Path
    format: str
    images: dict[str, int]  # by split
    objects: dict[str, int]  # by split, crowd included where it was written
    crowd_left_out: int  # crowd regions that YOLO has no way to write: they became background

    def lines(self) -> list[str]:
        """Returns the same as lines for people to read."""
        lines = [f"{message(self.out)}: {self.format.upper()}"]
        lines += [f"  {one_line(split)}: {n} images, {self.objects[split]} objects" for split, n in self.images.items()]
        if self.crowd_left_out:
            lines.append(f"  {self.crowd_left_out} crowd regions left out: YOLO cannot mark them")
        return lines


@checked()
def convert_dataset(
    path: str | Path,
    out: str | Path,
    to: Literal["coco", "voc", "yolo"],
    *,
    max_faulty_boxes: float = 0.05,
    voc_one_based: bool = False,
    outside: bool = False,
    progress: bool = True,
) -> Conversion:
    """Reads all splits of a data set, as `load_dataset` does, and writes them to a folder in another format.

    The folder ``out``, new or empty, appears only when it is complete. UserError: the data is faulty, ``out`` holds
    something, or the disk is full.
    """
    out = Path(out).expanduser()
    require_empty(out)
    sources = find_splits(path)
    datasets = {}
    for split in disjoint_splits(sources.splits):
        name = standard_name(split) if to != "voc" else split
        if name is None:
            problem = f"split {split!r} cannot be written, since {to.upper()} tells splits by names such as train, val "
            raise UserError(f"{sources.root}: {problem}and test; rename it")
        name = name if to == "yolo" else split
        if name in datasets:
            raise UserError(f"{sources.root}: several splits would be called {name!r} in YOLO form; rename one of them")
        how = {"voc_one_based": voc_one_based, "outside": outside}
        datasets[name] = load_found(sources, split, max_faulty_boxes=max_faulty_boxes, **how)
    require_same_categories(list(datasets.values()), sources)
    try:
        with new_folder(out) as folder:
            named = _unique_names(datasets, to)
            _WRITERS[to].write(folder, named)
            pairs = []
            for split, dataset in datasets.items():
                place = folder / _WRITERS[to].IMAGES.format(split=split)
                place.mkdir(parents=True, exist_ok=True)
                pairs += [(a.file, place / b.file) for a, b in zip(dataset.images, named[split].images, strict=True)]
            hide = None if progress else True  # None hides the bar where nobody looks at a terminal
            for source, target in tqdm(pairs, desc="copy", unit="image", disable=hide, leave=False):
                shutil.copyfile(source, target)
    except UnicodeEncodeError as error:
        raise UserError(f"{sources.root}: the file name {error.object!r} is not valid Unicode; rename it") from None
    images = {split: len(dataset) for split, dataset in datasets.items()}
    left_out = {s: sum(int(r.crowd.sum()) for r in d.images) if to == "yolo" else 0 for s, d in datasets.items()}
    objects = {s: sum(len(r.labels) for r in d.images) - left_out[s] for s, d in datasets.items()}
    return Conversion(out, to, images, objects, crowd_left_out=sum(left_out.values()))


def _unique_names(datasets: Mapping[str, DetectionDataset], to: str) -> dict[str, DetectionDataset]:
    """Replaces each image's file by its new name; stems are unique in a folder."""
    named, taken = {}, set[str]()
    for split, dataset in datasets.items():
        if to != "voc":  # which keeps all splits in one folder
            taken = set()
        images = []
        for record in dataset.images:
            if to != "coco" and record.file.suffix.lower() not in IMAGE_SUFFIXES:
                raise UserError(f"{record.file}: its name does not end as an image's, such as .jpg; rename it")
            if (problem := _unfit_name(record.file.name, split, to)) is not None:
                raise UserError(f"{record.file}: its name {problem}; rename it")
            name, count = Path(record.file.name), 1
            while (spelling := unicodedata.normalize("NFC", name.stem.casefold())) in taken:
                prefix = split if count == 1 else f"{split}_{count}"
                name, count = Path(f"{prefix}_{record.file.name}"), count + 1
            taken.add(spelling)
            images.append(replace(record, file=name))
        named[split] = replace(dataset, images=tuple(images))
    return named


def _unfit_name(name: str, split: str, to: str) -> str | None:
    """Returns why an image of this name, perhaps with its split's in front, could not be read back, None if it can."""
    stem, both = Path(name).stem, split + name
    control = any(unicodedata.category(letter) == "Cc" for letter in both) or len(both.splitlines()) > 1
    if to == "coco":
        if not name.strip():
            return "is blank, which COCO takes for none"
        return "ends in .xml, as VOC's annotations do" if name.lower().endswith(".xml") else None
    if name.startswith("."):
        return "begins with a dot, which hides files from readers"
    if "\\" in both:
        return f"holds a backslash, which separates folders in {to.upper()}"
    if to == "voc" and (control or {"\ufffe", "\uffff"} & {*both}):
        return "holds a line break or control character, for which VOC has no place"
    if to == "voc" and stem != stem.strip().lstrip("\ufeff"):  # a byte-order mark, which is no blank
        return "begins or ends with a blank or mark, which is lost in VOC's lists of images"
    return None
