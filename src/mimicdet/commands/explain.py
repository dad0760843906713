"""``mimicdet explain``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from mimicdet.commands.optional import optional

EXAMPLES = """\
mimicdet explain alignment runs/cells/model --data cells --out seen             pictures and a table of where it looks
mimicdet explain alignment with/model --against without/model --data cells --out seen       two models side by side
mimicdet explain alignment runs/cells/model --data cells --out seen --pictures 20 --objects 8
"""


@dataclass(frozen=True, kw_only=True)
class Explain:
    """Show what goes on inside a trained MimicDet: where its S-head looks for an object.

    `alignment`: for each object the adjusted box and the points that the alignment layer reads (Figure 3 of the
    paper), the share of the points inside the box and the IoU of their convex hull with it. The folder gets pictures
    of some images, alignment.csv with a row for each object, and alignment.md.
    """

    what: Annotated[Literal["alignment"], Positional, arg(metavar="WHAT")]
    """What to explain: `alignment`."""
    model: Annotated[Path, Positional, arg(metavar="MODEL")]
    """Model folder, such as `model` in a run folder."""
    data: Annotated[Path, arg(metavar="DATA")]
    """Data set whose objects are looked for."""
    out: Annotated[Path, arg(metavar="FOLDER")]
    """Where pictures and tables go."""
    against: Annotated[Path | None, optional("MODEL", Path)] = None
    """Another model to compare with, such as one trained without mimicking."""
    split: Annotated[str, arg(metavar="NAME")] = "val"
    """Split of the data set; `a+b` pools two."""
    pictures: Annotated[int, arg(metavar="N")] = 4
    """Images that are drawn: the first ones with objects that all models found."""
    objects: Annotated[int, arg(metavar="N")] = 4
    """Objects of an image that are drawn, from the smallest to the largest."""
    device: Annotated[str | None, optional("NAME", str)] = None
    """Such as cpu or cuda:1; the first GPU by default, where there is one."""

    def run(self) -> int:
        from mimicdet.data.splits import load_dataset
        from mimicdet.errors import UserError

        for name, least in (("pictures", 0), ("objects", 1)):
            if getattr(self, name) < least:
                raise UserError(f"mimicdet explain: --{name} must be {least} or more, not {getattr(self, name)}")
        dataset = load_dataset(self.data, self.split)
        from mimicdet.explain.report import explain_alignment  # torch and all: not before the data are found to be good
        from mimicdet.predict import Detector

        models = [self.model] if self.against is None else [self.model, self.against]
        text = explain_alignment(
            {str(model): Detector.from_pretrained(model, self.device) for model in models}, dataset, self.out,
            pictures=self.pictures, objects=self.objects, progress=sys.stderr.isatty(),
        )  # fmt: skip
        print(f"{text}\n\n{self.out}: alignment.md, alignment.csv and pictures")
        return 0
