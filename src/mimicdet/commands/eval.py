"""``mimicdet eval``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mimicdet.commands.data_options import DataOptions, Reading
from mimicdet.commands.inference_options import InferenceOptions
from mimicdet.commands.optional import optional

EXAMPLES = """\
mimicdet eval runs/cells/model --data cells                       COCO's 12 numbers and AP of each class
mimicdet eval runs/cells/model --data cells --split test --json numbers.json
mimicdet eval runs/trees/model --data forest --tile 400 --limit 1000     large images, many objects
mimicdet eval runs/cells/model --data cells --inference.shorter_side 400
"""


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Measure a trained model on a data set: COCO's 12 numbers and the AP of each class.

    Classes are matched by name, so the data set may number them otherwise than the one trained on.
    """

    model: Annotated[Path, Positional, arg(metavar="MODEL")]
    """Model folder, such as `model` in a run folder."""
    data: Annotated[Path, arg(metavar="DATA")]
    """Folder of a data set in COCO, PASCAL VOC or YOLO form, or one COCO .json file."""
    split: Annotated[str, arg(metavar="NAME")] = "val"
    """Split to evaluate on; `a+b` pools two."""
    json: Annotated[Path | None, optional("FILE", Path)] = None
    """Write the numbers to this file."""
    tile: Annotated[int | None, optional("PIXELS", int)] = None
    """Cut each image into squares of this side and merge what is found; for images much larger than the model's."""
    overlap: Annotated[float, arg(metavar="SHARE")] = 0.25
    """Share of a tile that it has in common with its neighbour, at least."""
    limit: Annotated[int | None, optional("N", int, default="100")] = None
    """Detections of an image that are kept and count; 100 is COCO's rule, images with more objects need more."""
    device: Annotated[str | None, optional("NAME", str)] = None
    """Such as cpu or cuda:1; the first GPU by default, where there is one."""
    reading: Reading = field(default_factory=DataOptions)
    inference: InferenceOptions = field(default_factory=InferenceOptions)

    def run(self) -> int:
        from mimicdet.commands.json_file import require_own_file, write_json
        from mimicdet.data.categories import match_classes
        from mimicdet.errors import UserError

        if self.limit is not None and self.limit <= 10:
            raise UserError(f"mimicdet eval: --limit must be more than 10, not {self.limit}")
        require_own_file(self.json, self.data, self.model)
        dataset = self.reading.load(self.data, self.split)
        # torch and all: not before the data are found to be good
        from mimicdet.data.tiles import Tiles
        from mimicdet.inference.coco_metrics import COCO_LIMITS
        from mimicdet.inference.dataset import evaluate_runner
        from mimicdet.predict import Detector
        from mimicdet.report.table import class_table, metrics_table

        detector = Detector.from_pretrained(self.model, self.device)
        inference = self.inference
        if self.limit is not None and inference.max_detections is None:
            inference = replace(inference, max_detections=self.limit)
        detector.inference = inference.applied_to(detector.inference, self.model)
        dataset = match_classes(dataset, detector.categories)
        tiles = None if self.tile is None else Tiles(self.tile, self.overlap)
        limits = (*COCO_LIMITS[:2], self.limit or COCO_LIMITS[2])
        metrics = evaluate_runner(
            detector.runner, dataset, detector.inference, tiles=tiles, progress=sys.stderr.isatty(), limits=limits
        )
        result = metrics.to_json()
        if self.json is not None:
            about = {"model": str(self.model), "data": str(self.data), "split": dataset.split, "limit": limits[2]}
            write_json(self.json, {**result, **about})
        print(f"{self.model} on '{dataset.split}' of {self.data}: {metrics.images} images, {metrics.objects} objects\n")
        print(metrics_table({"all classes": result}))
        print()
        print(class_table(result))
        most = max((int((~record.crowd).sum()) for record in dataset.images), default=0)
        if most > limits[2]:
            print(f"\nnote: an image has {most} objects, and {limits[2]} detections count: --limit sets another number")
        return 0
