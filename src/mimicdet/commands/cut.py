"""Has the command ``mimicdet cut``."""

import sys
from pathlib import Path
from typing import Annotated, Any

from pydantic.dataclasses import dataclass

from mimicdet.commands.options import DataOptions
from mimicdet.commands.parser import DOCUMENTED, Argument

EXAMPLES = """\
mimicdet cut forest tiles --tile 400
mimicdet cut forest tiles --tile 400 --hold-back 400     no other images to validate on: a strip of each is
"""


@dataclass(frozen=True, kw_only=True, config=DOCUMENTED)
class Cut(DataOptions):
    """Cuts a data set of large images, such as aerial photographs, into tiles to train on.

    Predicting and evaluating need no such step: `mimicdet predict` and `mimicdet eval` take --tile.
    """

    data: Annotated[Path, Argument("DATA", positional=True)]
    """The data set is a folder in COCO, PASCAL VOC or YOLO form, or one COCO .json file."""
    out: Annotated[Path, Argument("OUT", positional=True)]
    """The tiles go to this folder, in COCO form; it must be new or empty."""
    tile: Annotated[int, Argument("PIXELS")]
    """The square tiles have this side, 32 or more; 400 to 1000 is usual."""
    overlap: Annotated[float, Argument("SHARE")] = 0.25
    """A tile has at least this share in common with its neighbour."""
    hold_back: Annotated[int, Argument("PIXELS")] = 0
    """The last so many pixels of the longer side of each image of `train` make a split `val`."""

    def run(self) -> int:
        from mimicdet.data.cut import cut_datasets
        from mimicdet.data.splits import available_splits
        from mimicdet.data.tiles import tiles_of

        tiles_of(self.tile, self.overlap)  # no size or share that predict and eval would refuse
        datasets = {split: self.load(self.data, split, large=True) for split in available_splits(self.data)}
        form: dict[str, Any] = {"tile": self.tile, "overlap": self.overlap, "hold_back": self.hold_back}
        print("\n".join(cut_datasets(datasets, self.out, **form, progress=sys.stderr.isatty()).lines()))
        return 0
