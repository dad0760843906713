"""Has the command ``mimicdet train``."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic.dataclasses import dataclass

from mimicdet.commands.options import DataOptions
from mimicdet.commands.parser import COMMAND_LINE, DOCUMENTED, Argument, SettingsOptions
from mimicdet.config import Settings
from mimicdet.errors import MESSAGE, UserError, message, one_line
from mimicdet.settings_file import load_settings

if TYPE_CHECKING:
    from mimicdet.data.dataset import DetectionDataset

EXAMPLES = """\
mimicdet train cells --out runs/cells --preset small
mimicdet train cells --out runs/cells --preset small --resume          go on after an interruption
mimicdet train cells --out runs/big --preset small --model.backbone resnet50 --model.weights imagenet
mimicdet train cells --out runs/ms --data.shorter_side 640 720 800     lists take several values
mimicdet train cells --out runs/again --config runs/cells/settings.yaml
mimicdet train --preset small --help                                   the preset's values as defaults
mimicdet train cells --out runs/kd --preset small_gfl --task distill --teacher runs/big/model
torchrun --nproc-per-node 8 -m mimicdet train coco --out runs/r50 --preset paper_r50_1x
"""


def asked_settings(options: Mapping[str, Any]) -> Settings:
    """Returns the settings that a command line asks for, from its options, complete or not, typed or as words.

    UserError where a preset or file is not there, or settings do not go together.
    """
    preset = options.get("preset")
    config, out = (Path(options[name]) if options.get(name) else None for name in ("config", "out"))
    if options.get("resume") and out and not preset and not config and (out / "settings.yaml").is_file():
        config = out / "settings.yaml"  # a run goes on with its own settings
    changes = dict(options.get("changes", {}))
    if teachers := options.get("teacher"):
        changes["distill.teachers"] = list(teachers)
    return load_settings(preset, changes, config=config, source=COMMAND_LINE)


@dataclass(frozen=True, kw_only=True, config=DOCUMENTED)
class Train:
    """Checks a data set, then trains a detector on it.

    The run folder gets the resolved settings, metrics.jsonl, checkpoints, `model/` (for `eval` and `predict`),
    curves and pictures. Settings come from, a later one winning: the defaults, --preset, --config, --section.key.
    """

    data: Annotated[Path, Argument("DATA", positional=True)]
    """The data set is a folder in COCO, PASCAL VOC or YOLO form."""
    out: Annotated[Path, Argument("RUN")]
    """All results go to this run folder; one that holds a run already is refused without --resume or --overwrite."""
    preset: Annotated[str | None, Argument("NAME")] = None
    """This complete set of settings comes with mimicdet; `mimicdet presets` lists them."""
    config: Annotated[Path | None, Argument("FILE")] = None
    """This YAML file holds settings, all or some, such as another run's settings.yaml."""
    split: Annotated[str, Argument("NAME")] = "train"
    """The detector is trained on this split; `a+b` pools two."""
    val: Annotated[str | None, Argument("NAME")] = None
    """The detector is evaluated on this split, to keep the best weights; by default on `val` (or `valid`) where there
    is one."""
    resume: bool = False
    """The run in RUN goes on from its last checkpoint, exactly as if it had never stopped."""
    overwrite: bool = False
    """The run in RUN is replaced."""
    images: bool = True
    """Every image is decoded in the check before training."""
    outside: bool = False
    """Images outside the data set's folder are read too, where the annotations name such."""
    teacher: Annotated[tuple[str, ...], Argument("PATH", repeated=True)] = ()
    """A teacher of `--task distill` is a model folder, a run folder of `--task mimic`, or torchvision's weights; give
    the option once for each."""
    changes: Annotated[dict[str, Any], SettingsOptions(resolve=asked_settings)] = field(default_factory=dict)
    """These settings, by their dotted names, win over preset and file."""

    @cached_property
    def settings(self) -> Settings:
        """Preset, file and command line come to these settings."""
        return asked_settings(vars(self))

    @property
    def reading(self) -> DataOptions:
        """The settings have the data set read by these options of other commands."""
        data = self.settings.data
        given: Any = {"max_faulty_boxes": data.max_faulty_boxes, "voc_one_based": data.voc_one_based}
        return DataOptions(**given, outside=self.outside)

    def run(self) -> int:
        from mimicdet.data.split_names import validation_split
        from mimicdet.data.splits import available_splits
        from mimicdet.engine.run_folder import RunFolder

        reading = self.reading  # what is wrong with the settings is said before the data are looked at
        main_process = int(os.environ.get("RANK", "0")) == 0  # as torchrun sets it
        val = self.val or validation_split(available_splits(self.data))
        again = {"resume": self.resume, "overwrite": self.overwrite}
        if main_process:
            RunFolder(self.out).require_fit(**again)
            self._check(val)
        from mimicdet.engine.train import train  # torch and all: not before the data are found to be good
        from mimicdet.report.table import points

        train_data, val_data = reading.load(self.data, self.split), reading.load(self.data, val) if val else None
        if main_process and val_data is not None:
            _tell_of_shared_images(train_data, val_data)
        result = train(settings=self.settings, train_data=train_data, val_data=val_data, out=self.out, **again)
        if main_process:
            if result.best is not None:
                print(f"best AP {points(result.best['AP'])}, AP50 {points(result.best['AP50'])} on '{one_line(val)}'")
            elif val_data is not None:
                print(f"AP - on '{one_line(val)}', which has no object to measure by: the last weights are kept")
            print(message(f"the trained model is {result.model}; see what it finds with:"))
            print(f"  {one_line(self._predict(result.model, val), MESSAGE)}")
        if result.unwritten:
            raise UserError("; ".join(result.unwritten))
        return 0

    def _predict(self, model: Path, val: str | None) -> str:
        """Returns a command that works as it stands: pictures of what the model finds where it was measured."""
        words = ["mimicdet", "predict", str(model), "--data", str(self.data), "--split", val or self.split]
        if self.reading.max_faulty_boxes != DataOptions().max_faulty_boxes:
            words += ["--max_faulty_boxes", str(self.reading.max_faulty_boxes)]
        words += ["--voc_one_based"] if self.reading.voc_one_based else []
        words += ["--outside"] if self.outside else []
        return shlex.join([*words, "--pictures", str(self.out / "found")])

    def _check(self, val: str | None) -> None:
        # A run that goes on has been through it
        splits, images = [split for split in (self.split, val) if split], self.images and not self.resume
        report = self.reading.check(self.data, splits, images=images)
        print("\n".join(line for line in report.lines() if not line.startswith("fingerprint")), flush=True)
        report.raise_errors()
        if val is None:
            lost = "has no validation split: the last weights are kept, none are called best"
            print(f"{message(self.data)} {lost}")


def _tell_of_shared_images(train_data: DetectionDataset, val_data: DetectionDataset) -> None:
    shared = {record.file for record in train_data.images} & {record.file for record in val_data.images}
    if shared:
        little = "the AP on it, and the weights that are best by it, say little about other images"
        print(
            f"{len(shared)} of the {len(val_data)} images of '{one_line(val_data.split)}' are trained on too: {little}"
        )
