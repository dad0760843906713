"""Has the command ``mimicdet eval``."""

import sys
from dataclasses import field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic.dataclasses import dataclass

from mimicdet.commands.options import DataOptions, InferenceOptions, is_model_file, model_files, with_options
from mimicdet.commands.parser import DOCUMENTED, Argument
from mimicdet.data.json_kind import is_input
from mimicdet.errors import UserError, message
from mimicdet.files import failures_of, require_own_file, write_json

EXAMPLES = """\
mimicdet eval runs/cells/model --data cells                       COCO's 12 numbers and AP of each class
mimicdet eval runs/cells/model --data cells --split test --json numbers.json
mimicdet eval runs/trees/model --data forest --tile 400 --limit 1000     large images, many objects
mimicdet eval runs/cells/model --data cells --inference.shorter_side 400
"""


@dataclass(frozen=True, kw_only=True, config=DOCUMENTED)
class Eval(DataOptions):
    """Measures a trained model on a data set: COCO's 12 numbers and the AP of each class.

    Classes are matched by name, so the data set may number them otherwise than the one trained on.
    """

    model: Annotated[Path, Argument("MODEL", positional=True)]
    """The model is a folder, such as `model` in a run folder, or an exported file."""
    data: Annotated[Path, Argument("DATA")]
    """The data set is a folder in COCO, PASCAL VOC or YOLO form, or one COCO .json file."""
    split: Annotated[str, Argument("NAME")] = "val"
    """The model is measured on this split; `a+b` pools two."""
    json: Annotated[Path | None, Argument("FILE")] = None
    """This file gets the numbers."""
    tile: Annotated[int | None, Argument("PIXELS")] = None
    """Each image is cut into squares of this side and what is found is merged; for images much larger than the
    model's."""
    overlap: Annotated[float, Argument("SHARE")] = 0.25
    """A tile has at least this share in common with its neighbour."""
    limit: Annotated[int | None, Argument("N")] = None
    """So many detections of an image are kept and count; by default 100, which is COCO's rule. Images with more objects
    need more."""
    device: Annotated[str | None, Argument("NAME")] = None
    """The model runs here, such as cpu or cuda:1; the first GPU by default, where there is one."""
    trust: bool = False
    """A .pt2 file is read although it may hold code that runs then; whoever made it is trusted."""
    inference: InferenceOptions = field(default_factory=dict)

    def run(self) -> int:
        if self.limit is not None and self.limit <= 10:
            raise UserError(f"mimicdet eval: --limit must be more than 10, not {self.limit}")
        require_own_file(self.json, self.data, is_input=is_input)
        require_own_file(self.json, *model_files(self.model), is_input=is_model_file)
        dataset = self.load(self.data, self.split, large=self.tile is not None)
        # torch and all: not before the data are found to be good
        from mimicdet.api import evaluate
        from mimicdet.inference.coco_metrics import COCO_LIMITS
        from mimicdet.predict import Detector
        from mimicdet.report.table import class_table, metrics_table

        detector = Detector.from_pretrained(self.model, self.device, trust=self.trust)
        given = self.inference if self.limit is None else {"inference.max_detections": self.limit} | self.inference
        inference = with_options(detector.inference, given, self.model)
        how: dict[str, Any] = {"tile": self.tile, "overlap": self.overlap, "limit": self.limit, "inference": inference}
        metrics = evaluate(detector, dataset, **how, progress=sys.stderr.isatty())
        counted = self.limit or COCO_LIMITS[2]
        result = metrics.to_json()
        about = {"model": str(self.model), "data": str(self.data), "split": dataset.split, "limit": counted}
        unwritten = failures_of(*([partial(write_json, self.json, {**result, **about})] if self.json else []))
        title = f"{self.model} on '{dataset.split}' of {self.data}: {metrics.images} images, {metrics.objects} objects"
        print(f"{message(title)}\n")
        print(f"{metrics_table({'all classes': result})}\n\n{class_table(result)}")
        most = max((int((~record.crowd).sum()) for record in dataset.images), default=0)
        if most > counted:
            print(f"\nnote: an image has {most} objects, and {counted} detections count: --limit sets another number")
        if unwritten:
            raise UserError("; ".join(unwritten))
        return 0
