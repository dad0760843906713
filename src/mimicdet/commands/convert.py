"""``mimicdet convert``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from mimicdet.commands.data_options import DataOptions, Reading

EXAMPLES = """\
mimicdet convert cells cells_yolo --to yolo
mimicdet convert VOC2007 coco07 --to coco --voc-one-based
"""


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Write a data set in another format; boxes, classes and splits survive exactly."""

    data: Annotated[Path, Positional, arg(metavar="DATA")]
    """Folder of a data set, or one COCO .json file."""
    out: Annotated[Path, Positional, arg(metavar="OUT")]
    """Folder to write; it must be new or empty."""
    to: Literal["coco", "voc", "yolo"]
    """Format to write."""
    reading: Reading = field(default_factory=DataOptions)

    def run(self) -> int:
        from mimicdet.data.convert import convert_dataset

        conversion = convert_dataset(
            self.data,
            self.out,
            to=self.to,
            max_faulty_boxes=self.reading.max_faulty_boxes,
            voc_one_based=self.reading.voc_one_based,
        )
        print("\n".join(conversion.lines()))
        return 0
