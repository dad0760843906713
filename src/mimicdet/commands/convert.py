"""Has the command ``mimicdet convert``."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from mimicdet.commands.options import DataOptions
from mimicdet.commands.parser import DOCUMENTED, Argument

EXAMPLES = """\
mimicdet convert cells cells_yolo --to yolo
mimicdet convert VOC2007 coco07 --to coco --voc-one-based
"""


@dataclass(frozen=True, kw_only=True, config=DOCUMENTED)
class Convert(DataOptions):
    """Writes a data set in another format; boxes, classes and splits survive exactly."""

    data: Annotated[Path, Argument("DATA", positional=True)]
    """The data set is a folder, or one COCO .json file."""
    out: Annotated[Path, Argument("OUT", positional=True)]
    """The result goes to this folder, which must be new or empty."""
    to: Literal["coco", "voc", "yolo"]
    """The result has this format."""

    def run(self) -> int:
        from mimicdet.data.convert import convert_dataset

        conversion = convert_dataset(self.data, self.out, self.to, **self.reading)
        print("\n".join(conversion.lines()))
        return 0
