"""Has the command ``mimicdet check``."""

from pathlib import Path
from typing import Annotated

from pydantic.dataclasses import dataclass

from mimicdet.commands.options import DataOptions
from mimicdet.commands.parser import DOCUMENTED, Argument
from mimicdet.data.json_kind import is_input
from mimicdet.files import require_own_file, write_json

EXAMPLES = """\
mimicdet check cells                        all splits of the folder `cells`: COCO, VOC or YOLO, told by looking
mimicdet check cells --json faults.json     the counts for a script
mimicdet check cells --no-images            labels only: quick, but truncated images go unnoticed
"""


@dataclass(frozen=True, kw_only=True, config=DOCUMENTED)
class Check(DataOptions):
    """Reads a data set as training does and lists every fault by kind, with counts and examples.

    The exit code is 2 when a fault would stop training; warnings alone are no failure.
    """

    data: Annotated[Path, Argument("DATA", positional=True)]
    """The data set is a folder in COCO, PASCAL VOC or YOLO form, or one COCO .json file."""
    split: Annotated[tuple[str, ...], Argument("NAME")] = ()
    """These splits are checked; all by default."""
    json: Annotated[Path | None, Argument("FILE")] = None
    """This file gets the counts by kind of fault, and a fingerprint of each split."""
    images: bool = True
    """Every image is decoded, which finds truncated ones."""

    def run(self) -> int:
        require_own_file(self.json, self.data, is_input=is_input)
        report = self.check(self.data, self.split or None, images=self.images)
        if self.json is not None:
            write_json(self.json, report.to_json())
        print("\n".join(report.lines()))
        report.raise_errors()
        return 0
