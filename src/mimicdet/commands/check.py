"""``mimicdet check``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mimicdet.commands.data_options import DataOptions, Reading
from mimicdet.commands.optional import optional

EXAMPLES = """\
mimicdet check cells                        all splits of the folder `cells`: COCO, VOC or YOLO, told by looking
mimicdet check cells --json faults.json     the counts for a script
mimicdet check cells --no-images            labels only: quick, but truncated images go unnoticed
"""


@dataclass(frozen=True, kw_only=True)
class Check:
    """Read a data set as training does and list every fault by kind, with counts and examples.

    Ends with exit code 2 when a fault would stop training; warnings alone are no failure.
    """

    data: Annotated[Path, Positional, arg(metavar="DATA")]
    """Folder of a data set in COCO, PASCAL VOC or YOLO form, or one COCO .json file."""
    split: Annotated[tuple[str, ...], arg(metavar="NAME ...", help_behavior_hint="")] = ()
    """Splits to check; all by default."""
    json: Annotated[Path | None, optional("FILE", Path)] = None
    """Write counts by kind of fault, and a fingerprint of each split, to this file."""
    images: bool = True
    """Decode every image to find truncated ones."""
    reading: Reading = field(default_factory=DataOptions)

    def run(self) -> int:
        from mimicdet.commands.json_file import require_own_file, write_json
        from mimicdet.data.check import check_dataset

        require_own_file(self.json, self.data)
        report = check_dataset(
            self.data,
            splits=self.split or None,
            max_faulty_boxes=self.reading.max_faulty_boxes,
            voc_one_based=self.reading.voc_one_based,
            verify_images=self.images,
        )
        if self.json is not None:
            write_json(self.json, report.to_json())
        print("\n".join(report.lines()))
        report.raise_errors()
        return 0
