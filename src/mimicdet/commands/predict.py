"""``mimicdet predict``."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from mimicdet.commands.data_options import DataOptions, Reading
from mimicdet.commands.inference_options import InferenceOptions
from mimicdet.commands.optional import optional

EXAMPLES = """\
mimicdet predict runs/cells/model photo.jpg --pictures drawn
mimicdet predict runs/cells/model photos/ "more/**/*.png" --json found.json
mimicdet predict runs/trees/model aerial.tif --tile 400 --json found.json          large images
mimicdet predict runs/cells/model --data cells --split val --json found.json --pictures drawn
"""


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Detect objects in images; write COCO results and pictures with the boxes drawn."""

    model: Annotated[Path, Positional, arg(metavar="MODEL")]
    """Model folder, such as `model` in a run folder."""
    sources: Annotated[tuple[str, ...], Positional, arg(metavar="SOURCES ...", help_behavior_hint="")] = ()
    """Image files, folders, and globs in quotes."""
    json: Annotated[Path | None, optional("FILE", Path)] = None
    """Write COCO results to this file, with file and class names besides."""
    pictures: Annotated[Path | None, optional("FOLDER", Path)] = None
    """Draw each image with its boxes into this folder."""
    threshold: Annotated[float, arg(metavar="SCORE")] = 0.3
    """Boxes with at least this score are drawn; the JSON file gets all."""
    tile: Annotated[int | None, optional("PIXELS", int)] = None
    """Cut each image into squares of this side and merge what is found; for images much larger than the model's."""
    overlap: Annotated[float, arg(metavar="SHARE")] = 0.25
    """Share of a tile that it has in common with its neighbour, at least."""
    data: Annotated[Path | None, optional("DATA", Path)] = None
    """Data set whose image and category ids the results carry; its objects are drawn too, dashed."""
    split: Annotated[str, arg(metavar="NAME")] = "val"
    """Split of that data set; all its images are taken where no SOURCES are named."""
    device: Annotated[str | None, optional("NAME", str)] = None
    """Such as cpu or cuda:1; the first GPU by default, where there is one."""
    reading: Reading = field(default_factory=DataOptions)
    inference: InferenceOptions = field(default_factory=InferenceOptions)

    def run(self) -> int:
        from mimicdet.commands.json_file import require_own_file
        from mimicdet.errors import UserError

        if not self.sources and self.data is None:
            raise UserError("mimicdet predict: name image files, folders or globs")
        if self.json is None and self.pictures is None:
            raise UserError("mimicdet predict: say where results go, --json FILE or --pictures FOLDER or both")
        require_own_file(self.json, self.model, *([self.data] if self.data else []))
        dataset = None
        if self.data is not None:
            dataset = self.reading.load(self.data, self.split)
        from mimicdet.predict import Detector, predict_files  # torch and all: not before the data are found to be good

        detector = Detector.from_pretrained(self.model, self.device)
        detector.inference = self.inference.applied_to(detector.inference, self.model)
        summary = predict_files(
            detector,
            self.sources,
            json_file=self.json,
            pictures=self.pictures,
            dataset=dataset,
            tile=self.tile,
            overlap=self.overlap,
            picture_threshold=self.threshold,
            progress=sys.stderr.isatty(),
        )
        places = " and ".join(str(place) for place in (self.json, self.pictures) if place is not None)
        print(f"{summary.detections} detections in {summary.images} images: {places}")
        if complaint := summary.complaint():
            raise UserError(complaint)
        return 0
