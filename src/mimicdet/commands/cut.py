"""``mimicdet cut``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mimicdet.commands.data_options import DataOptions, Reading

EXAMPLES = """\
mimicdet cut forest tiles --tile 400
mimicdet cut forest tiles --tile 400 --hold-back 400     no other images to validate on: a strip of each is
"""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Cut a data set of large images, such as aerial photographs, into tiles to train on.

    Predicting and evaluating need no such step: `mimicdet predict` and `mimicdet eval` take --tile.
    """

    data: Annotated[Path, Positional, arg(metavar="DATA")]
    """Folder of a data set in COCO, PASCAL VOC or YOLO form, or one COCO .json file."""
    out: Annotated[Path, Positional, arg(metavar="OUT")]
    """Folder to write, in COCO form; it must be new or empty."""
    tile: Annotated[int, arg(metavar="PIXELS")]
    """Side of the square tiles; 400 to 1000 is usual."""
    overlap: Annotated[float, arg(metavar="SHARE")] = 0.25
    """Share of a tile that it has in common with its neighbour, at least."""
    hold_back: Annotated[int, arg(metavar="PIXELS")] = 0
    """Make a split `val` of so many pixels at the end of the longer side of each image of `train`."""
    reading: Reading = field(default_factory=DataOptions)

    def run(self) -> int:
        from mimicdet.data.splits import available_splits
        from mimicdet.data.write.cut import cut_datasets

        datasets = {split: self.reading.load(self.data, split) for split in available_splits(self.data)}
        cut = cut_datasets(
            datasets,
            self.out,
            tile=self.tile,
            overlap=self.overlap,
            hold_back=self.hold_back,
            progress=sys.stderr.isatty(),
        )
        print("\n".join(cut.lines()))
        return 0
