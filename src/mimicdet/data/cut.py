"""Cuts data sets of large images into tiles to train on; a whole aerial photograph would be shrunk to nothing.

Prediction needs nothing cut on disk: see the ``tile`` option of ``mimicdet.predict.Detector``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from mimicdet.arguments import checked
from mimicdet.data.dataset import DetectionDataset, ImageRecord
from mimicdet.data.formats import coco
from mimicdet.data.photograph import Photograph
from mimicdet.data.sound import require_sound
from mimicdet.data.tiles import Window, tile_windows
from mimicdet.errors import UserError, message, one_line
from mimicdet.files import fitting_name, new_folder

VISIBLE = 0.5
"""An object counts in every tile that shows at least this share of it."""


@dataclass(frozen=True)
class Damage:
    """Counts the objects of a split that cutting damages, crowd apart."""

    before: int
    lost: int = 0  # no tile shows VISIBLE of them: they are nowhere more than crowd
    in_parts: int = 0  # some tile shows VISIBLE of them, none the whole: they shrink to what is seen

    def sentence(self) -> str:
        """Returns the numbers and the way out as a sentence."""
        lost = f"{self.lost} are lost, since no tile shows half of them" if self.lost else ""
        in_parts = f"{self.in_parts} are cut in every tile and shrink to a part" if self.in_parts else ""
        numbers = ", and ".join(filter(None, (lost, in_parts)))
        return f"of {self.before} objects {numbers}; a larger --tile or --overlap keeps more"


@dataclass(frozen=True)
class CutDataset:
    """A cut counts what ``cut_datasets`` wrote, by split."""

    out: Path
    tiles: dict[str, int]
    objects: dict[str, int]  # once for every tile in which they count
    damage: dict[str, Damage] = field(default_factory=dict)  # of splits whose objects are not all whole in some tile

    def lines(self) -> list[str]:
        """Returns the same as lines for people to read."""
        lines = [f"{message(self.out)}: COCO"]
        for split, tiles in self.tiles.items():
            lines.append(f"  {one_line(split)}: {tiles} tiles, {self.objects[split]} objects")
            if split in self.damage:
                lines.append(f"    {self.damage[split].sentence()}")
        return lines


@checked()
def cut_datasets(
    datasets: Mapping[str, DetectionDataset],
    out: str | Path,
    *,
    tile: int,
    overlap: float = 0.25,
    hold_back: int = 0,
    progress: bool = False,
) -> CutDataset:
    """Writes tiles of all images as a data set in COCO form: ``out/train.json`` beside ``out/train/`` and so on.

    Args:
        out: folder, new or empty; it appears only when it is complete.
        tile: side of the square tiles in pixels; smaller images stay whole.
        overlap: share of the side that neighbours have in common at least, 0 to below 1.
        hold_back: so many pixels at the end of the longer side of each image of the split ``train`` make a split
            ``val`` instead, which shares no pixel with the rest; for when there are no other images to validate on.

    An object that is cut by a tile's edge shrinks to its visible part where that is at least half of it (``VISIBLE``);
    a smaller rest is marked as crowd, which training and evaluation pass over. Tiles are 8-bit RGB PNG files.

    UserError: values out of range, images not longer than what is held back, tiles so small that no object is left,
    an ``out`` that is not empty, an image that cannot be read, a full disk.
    """
    out = Path(out)
    if tile < 1:
        raise UserError(f"a tile's side must be 1 pixel at least, not {tile}")
    if not 0 <= overlap < 1:
        raise UserError(f"the overlap must be a share of the tile from 0 to below 1, not {overlap}")
    if hold_back < 0:
        raise UserError(f"the strip held back must be a number of pixels from 0 up, not {hold_back}")
    if hold_back and ("val" in datasets or "train" not in datasets):
        raise UserError("a strip of train is held back as val only where there is a split train and no split val")
    for dataset in datasets.values():
        require_sound(dataset)
    windows = {s: [tile_windows(*record.size, tile, overlap) for record in d.images] for s, d in datasets.items()}
    sources = dict(datasets)
    if hold_back:
        parts = [_divided(record, tile, overlap, hold_back) for record in datasets["train"].images]
        windows |= {"train": [part[0] for part in parts], "val": [part[1] for part in parts]}
        sources["val"] = replace(datasets["train"], split="val")
    damage = {split: _damage(dataset, windows[split]) for split, dataset in sources.items()}
    before, lost = sum(found.before for found in damage.values()), sum(found.lost for found in damage.values())
    if before and lost == before:
        problem = f"tiles of {tile} pixels show half of none of the {before} objects, so that nothing would be left"
        raise UserError(f"{out} is not written: {problem} to train on; give a larger --tile or --overlap")
    with new_folder(out) as folder:
        written = {split: _write_split(folder, split, d, windows[split], progress) for split, d in sources.items()}
    tiles = {split: len(dataset) for split, dataset in written.items()}
    objects = {split: sum(int((~r.crowd).sum()) for r in dataset.images) for split, dataset in written.items()}
    return CutDataset(out, tiles, objects, {s: found for s, found in damage.items() if found.lost or found.in_parts})


def _divided(record: ImageRecord, tile: int, overlap: float, hold_back: int) -> tuple[list[Window], list[Window]]:
    """Returns windows in the image less the strip at the end of its longer side, and windows in the strip."""
    height, width = record.size
    kept = max(height, width) - hold_back
    if kept < 1:
        size = f"{width} x {height} pixels"
        raise UserError(f"{record.file}: has {size}, of which {hold_back} cannot be held back; hold back fewer")
    if width > height:
        rest, strip, (dx, dy) = (height, kept), (height, hold_back), (kept, 0)
    else:
        rest, strip, (dx, dy) = (kept, width), (hold_back, width), (0, kept)
    windows = tile_windows(*strip, tile, overlap)  # in pixels of the strip
    return tile_windows(*rest, tile, overlap), [(x1 + dx, y1 + dy, x2 + dx, y2 + dy) for x1, y1, x2, y2 in windows]


def _damage(dataset: DetectionDataset, windows: list[list[Window]]) -> Damage:
    """Counts what cutting a split's images into their windows does to its objects.

    Of an image of which a strip is held back, the objects count that lie in the windows' part for the most part.
    """
    before, lost, in_parts = 0, 0, 0
    for record, places in zip(dataset.images, windows, strict=True):
        corners = np.array(places)
        there = _visible(record, (*corners[:, :2].min(axis=0), *corners[:, 2:].max(axis=0)))
        best = np.max([_visible(record, window) for window in places], axis=0)  # (M,)
        counts = ~record.crowd & (there >= VISIBLE)
        before += int(counts.sum())
        lost += int((counts & (best < VISIBLE)).sum())
        # Not those that the strip's edge cuts: no other tile would change that
        in_parts += int((counts & (best >= VISIBLE) & (best < there)).sum())
    return Damage(before, lost, in_parts)


def _visible(record: ImageRecord, window: Window) -> np.ndarray:
    """Returns the share (M,) of each of an image's boxes that lies in a window; exactly 1 where all of it does."""
    boxes = _clipped(record, window)  # without area where nothing is seen
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / (record.boxes[:, 2:] - record.boxes[:, :2]).prod(axis=1)


def _clipped(record: ImageRecord, window: Window) -> np.ndarray:
    return np.clip(record.boxes, window[:2] * 2, window[2:] * 2)  # (M, 4)


def _write_split(
    folder: Path, split: str, dataset: DetectionDataset, windows: list[list[Window]], progress: bool
) -> DetectionDataset:
    (folder / split).mkdir()
    tiles: list[ImageRecord] = []
    images = tqdm(dataset.images, desc=f"cut {one_line(split)}", unit="image", disable=not progress, leave=False)
    for number, (record, places) in enumerate(zip(images, windows, strict=True)):
        photograph = Photograph(record.file)
        for x1, y1, x2, y2 in places:
            # The number: files of different folders
            name = fitting_name(f"{number:05}-", record.file.stem, f"-x{x1}-y{y1}.png")
            pixels = photograph.window((x1, y1, x2, y2))
            Image.fromarray(pixels).save(folder / split / name, compress_level=1)
            tiles.append(_cropped(record, (x1, y1, x2, y2), len(tiles) + 1, Path(name)))
        del photograph, pixels  # before the next is read
    result = replace(dataset, root=folder, split=split, format="coco", images=tuple(tiles))
    coco.write(folder, {split: result})
    return result


def _cropped(record: ImageRecord, window: Window, image_id: int, file: Path) -> ImageRecord:
    x1, y1, x2, y2 = window
    visible = _visible(record, window)  # (M,)
    inside = visible > 0
    boxes, labels = _clipped(record, window)[inside] - [x1, y1, x1, y1], record.labels[inside]
    crowd, areas = record.crowd[inside] | (visible[inside] < VISIBLE), record.areas[inside] * visible[inside]
    return ImageRecord(image_id, file, y2 - y1, x2 - x1, boxes, labels, crowd, areas)
