"""Has the command ``mimicdet predict``."""

import sys
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic.dataclasses import dataclass

from mimicdet.commands.options import DataOptions, InferenceOptions, is_model_file, model_files, with_options
from mimicdet.commands.parser import DOCUMENTED, Argument
from mimicdet.data.json_kind import is_input
from mimicdet.errors import UserError, message, one_line
from mimicdet.files import require_own_file

EXAMPLES = """\
mimicdet predict runs/cells/model photo.jpg --pictures drawn
mimicdet predict runs/cells/model photos/ "more/**/*.png" --json found.json
mimicdet predict runs/trees/model aerial.tif --tile 400 --json found.json          large images
mimicdet predict runs/cells/model --data cells --split val --json found.json --pictures drawn
"""


@dataclass(frozen=True, kw_only=True, config=DOCUMENTED)
class Predict(DataOptions):
    """Detects objects in images; writes COCO results and pictures with the boxes drawn."""

    model: Annotated[Path, Argument("MODEL", positional=True)]
    """The model is a folder, such as `model` in a run folder, or an exported file."""
    sources: Annotated[tuple[str, ...], Argument("SOURCES", positional=True)] = ()
    """Images are named as files, folders, and globs in quotes."""
    json: Annotated[Path | None, Argument("FILE")] = None
    """This file gets COCO results, with the names of files and classes added."""
    pictures: Annotated[Path | None, Argument("FOLDER")] = None
    """This folder gets each image with its boxes drawn."""
    threshold: Annotated[float, Argument("SCORE")] = 0.3
    """Boxes with at least this score are drawn; the JSON file gets all."""
    tile: Annotated[int | None, Argument("PIXELS")] = None
    """Each image is cut into squares of this side and what is found is merged; for images much larger than the
    model's."""
    overlap: Annotated[float, Argument("SHARE")] = 0.25
    """A tile has at least this share in common with its neighbour."""
    data: Annotated[Path | None, Argument("DATA")] = None
    """The results carry the image and category ids of this data set, and its objects are drawn too, dashed."""
    split: Annotated[str, Argument("NAME")] = "val"
    """This split of the data set is meant; all its images are taken where no SOURCES are named."""
    device: Annotated[str | None, Argument("NAME")] = None
    """The model runs here, such as cpu or cuda:1; the first GPU by default, where there is one."""
    trust: bool = False
    """A .pt2 file is read although it may hold code that runs then; whoever made it is trusted."""
    inference: InferenceOptions = field(default_factory=dict)

    def run(self) -> int:
        if not self.sources and self.data is None:
            raise UserError("mimicdet predict: name image files, folders or globs")
        if self.json is None and self.pictures is None:
            raise UserError("mimicdet predict: say where results go, --json FILE or --pictures FOLDER or both")
        if not 0 <= self.threshold <= 1:
            raise UserError(f"mimicdet predict: --threshold is a score from 0 to 1, not {self.threshold:g}")
        require_own_file(self.json, self.data, is_input=is_input)
        require_own_file(self.json, *model_files(self.model), is_input=is_model_file)
        reading: dict[str, Any] = {"annotated": False, "large": self.tile is not None}
        dataset = None if self.data is None else self.load(self.data, self.split, **reading)
        from mimicdet.predict import Detector, files_left_out, predict_files  # torch: not before the data are good

        detector = Detector.from_pretrained(self.model, self.device, trust=self.trust)
        detector.inference = with_options(detector.inference, self.inference, self.model)
        drawn: dict[str, Any] = {"pictures": self.pictures, "picture_threshold": self.threshold, "dataset": dataset}
        tiles: dict[str, Any] = {"tile": self.tile, "overlap": self.overlap}
        shown = sys.stderr.isatty()
        summary = predict_files(detector, self.sources, json_file=self.json, **drawn, **tiles, progress=shown)
        places = " and ".join(str(place) for place in (self.json, self.pictures) if place is not None)
        plural = "" if summary.images == 1 else "s"
        print(message(f"{summary.detections} detections in {summary.images} image{plural}: {places}"))
        if summary.own_pictures:
            print(f"left out, because mimicdet drew them: {summary.own_pictures} pictures")
        if left_out := files_left_out(self.sources):
            endings = ", ".join(map(one_line, sorted({file.suffix.lower() or file.name for file in left_out})[:10]))
            files = "1 file" if len(left_out) == 1 else f"{len(left_out)} files"
            print(f"left out, because their names do not end as an image's: {files} ({endings})")
        if complaint := summary.complaint():
            raise UserError(complaint)
        return 0
