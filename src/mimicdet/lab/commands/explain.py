"""Has the command ``mimicdet explain``."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic.dataclasses import dataclass

from mimicdet.commands.options import DataOptions
from mimicdet.commands.parser import DOCUMENTED, Argument
from mimicdet.errors import UserError, message

EXAMPLES = """\
mimicdet explain alignment runs/cells/model --data cells --out seen             pictures and a table of where it looks
mimicdet explain alignment with/model --against without/model --data cells --out seen       two models side by side
mimicdet explain alignment runs/cells/model --data cells --out seen --pictures 20 --objects 8
mimicdet explain alignment runs/cells/model --data cells --out seen --images BloodImage_00007      of this image
mimicdet explain gap runs/cells --data cells --out gap                          what its S-head loses, and by what
"""


@dataclass(frozen=True, kw_only=True, config=DOCUMENTED)
class Explain(DataOptions):
    """Shows where a trained MimicDet's S-head looks, and what it loses against its T-head.

    `alignment` gives for each object the adjusted box and the points that the alignment layer reads (Figure 3 of the
    paper), the share of the points inside the box and the IoU of their convex hull with it. The folder gets pictures
    of some images, alignment.csv with a row for each object, and alignment.md.

    `gap` gives COCO's numbers of the S-head and the T-head at the same positions, and of the scores of one with the
    boxes of the other, which tell whether classification or localisation is behind. The folder gets gap.csv and gap.md.
    """

    what: Annotated[Literal["alignment", "gap"], Argument("WHAT", positional=True)]
    """This is explained: `alignment` or `gap`."""
    model: Annotated[Path, Argument("MODEL", positional=True)]
    """The model is a folder, such as `model` in a run folder; for `gap` the run folder itself, which has the T-head."""
    data: Annotated[Path, Argument("DATA")]
    """The objects of this data set are looked for."""
    out: Annotated[Path, Argument("FOLDER")]
    """Pictures and tables go to this folder."""
    against: Annotated[Path | None, Argument("MODEL")] = None
    """`alignment` is compared with that of this model, such as one trained without mimicking."""
    split: Annotated[str, Argument("NAME")] = "val"
    """This split of the data set is used; `a+b` pools two."""
    pictures: Annotated[int | None, Argument("N")] = None
    """`alignment` draws so many images, by default 4, the first ones with objects that all models found."""
    images: Annotated[tuple[str, ...], Argument("NAME")] = ()
    """`alignment` draws these images instead, by their files' names."""
    objects: Annotated[int | None, Argument("N")] = None
    """`alignment` draws so many objects of an image, by default 4, from the smallest to the largest."""
    device: Annotated[str | None, Argument("NAME")] = None
    """The model runs here, such as cpu or cuda:1; the first GPU by default, where there is one."""

    def run(self) -> int:
        if self.images and self.pictures is not None:
            raise UserError("mimicdet explain: --images names the pictures, --pictures counts them; give one of both")
        for name, least in (("pictures", 0), ("objects", 1), ("against", None), ("images", None)):
            value = getattr(self, name)
            if value not in (None, ()) and self.what == "gap":
                raise UserError(f"mimicdet explain gap has no --{name}, which belongs to alignment")
            if value is not None and least is not None and value < least:
                raise UserError(f"mimicdet explain: --{name} must be {least} or more, not {value}")
        dataset = self.load(self.data, self.split)  # before torch and all are imported
        if self.what == "gap":
            from mimicdet.lab.explain.gap import explain_gap
            from mimicdet.tasks.build import read_mimic_run

            text = explain_gap(read_mimic_run(self.model), dataset, self.out, device=self.device)
            print(f"{text}\n\n{message(self.out)}: gap.md and gap.csv")
            return 0

        from mimicdet.lab.explain.report import explain_alignment
        from mimicdet.predict import Detector

        models = [self.model] if self.against is None else [self.model, self.against]
        for model in models:
            if model.is_file():
                raise UserError(
                    f"{message(model)}: an exported file does not show where it looks; give the model folder"
                )
        detectors = {str(model): Detector.from_pretrained(model, self.device) for model in models}
        pictures, objects = (4 if count is None else count for count in (self.pictures, self.objects))
        text = explain_alignment(detectors, dataset, self.out, pictures=self.images or pictures, objects=objects)
        print(f"{text}\n\n{message(self.out)}: alignment.md, alignment.csv and pictures")
        return 0
