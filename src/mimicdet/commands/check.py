"""``mimicdet check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic.dataclasses import dataclass

from mimicdet.commands.data_options import DataOptions
from mimicdet.commands.parser import DOCUMENTED, Argument

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
        from mimicdet.commands.json_file import require_own_file, write_json
        from mimicdet.data.check import check_dataset

        require_own_file(self.json, self.data)
        report = check_dataset(
            self.data,
            splits=self.split or None,
            max_faulty_boxes=self.max_faulty_boxes,
            voc_one_based=self.voc_one_based,
            verify_images=self.images,
        )
        if self.json is not None:
            write_json(self.json, report.to_json())
        print("\n".join(report.lines()))
        report.raise_errors()
        return 0
