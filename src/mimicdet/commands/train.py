"""``mimicdet train``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from tyro.conf import FlagConversionOff, Positional, arg

from mimicdet.commands.optional import optional
from mimicdet.config import MimicDetSettings, Settings
from mimicdet.errors import UserError

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


@dataclass(frozen=True, kw_only=True)
class Train:
    """Check a data set, then train a detector on it.

    The run folder gets the resolved settings, metrics.jsonl, checkpoints, `model/` (for `eval` and `predict`),
    curves and pictures. Settings come from, a later one winning: the defaults, --preset, --config, --section.key.
    """

    data: Annotated[Path, Positional, arg(metavar="DATA")]
    """Folder of a data set in COCO, PASCAL VOC or YOLO form."""
    out: Annotated[Path, arg(metavar="RUN")]
    """Run folder; one that holds a run already is refused without --resume or --overwrite."""
    preset: Annotated[str | None, optional("NAME", str)] = None
    """A complete set of settings that comes with mimicdet; `mimicdet presets` lists them."""
    config: Annotated[Path | None, optional("FILE", Path)] = None
    """YAML file of settings, all or some, such as another run's settings.yaml."""
    split: Annotated[str, arg(metavar="NAME")] = "train"
    """Split to train on; `a+b` pools two."""
    val: Annotated[str | None, optional("NAME", str)] = None
    """Split to evaluate on, to keep the best weights; by default `val` (or `valid`) where there is one."""
    resume: bool = False
    """Continue the run in RUN from its last checkpoint, exactly as if it had never stopped."""
    overwrite: bool = False
    """Replace the run in RUN."""
    images: bool = True
    """Decode every image in the check before training."""
    teacher: Annotated[tuple[str, ...], arg(metavar="PATH", help_behavior_hint="may be given several times")] = ()
    """Teacher of `--task distill`: a model folder, a run folder of `--task mimic`, or torchvision's weights."""
    settings: Settings = field(default_factory=MimicDetSettings)

    @classmethod
    def with_settings(cls, arguments: Sequence[str]) -> tuple[Train, list[str]]:
        """Resolve the settings that a command line asks for.

        Returns:
            Options for tyro to start from, whose help then shows these settings, and the arguments that remain.
        """
        from mimicdet.commands.overrides import take_overrides
        from mimicdet.settings_file import Layer, load_settings

        teachers, rest = _take_teachers(arguments)  # first: there is a section of this name too
        overrides, rest = take_overrides(rest)
        if teachers:
            overrides = Layer(overrides.source, overrides.values | {"distill.teachers": teachers})
        peek = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        peek.add_argument("--preset", nargs="?")
        for name in ("--config", "--out"):
            peek.add_argument(name, nargs="?", type=Path)
        peek.add_argument("--resume", action="store_true")
        asked, _ = peek.parse_known_args(rest)
        config = asked.config
        if asked.resume and asked.out and not asked.preset and not config and (asked.out / "settings.yaml").is_file():
            config = asked.out / "settings.yaml"  # a run goes on with its own settings
        settings = load_settings(preset=asked.preset, config=config, overrides=overrides)
        of_family: Any = Annotated[type(settings), arg(name=""), FlagConversionOff]
        cls = make_dataclass("Train", [("settings", of_family)], bases=(cls,), frozen=True, kw_only=True)
        cls.__doc__ = Train.__doc__
        cls.__module__ = Train.__module__
        return cls(data=tyro.MISSING, out=tyro.MISSING, settings=settings), rest

    def run(self) -> int:
        from mimicdet.data.splits import available_splits, load_dataset
        from mimicdet.engine.run_folder import RunFolder

        main_process = int(os.environ.get("RANK", "0")) == 0  # as torchrun sets it
        val = self.val or next((s for s in available_splits(self.data) if s in ("val", "valid", "validation")), None)
        if main_process:
            RunFolder(self.out).require_fit(resume=self.resume, overwrite=self.overwrite)
            self._check(val)
        from mimicdet.engine.train import train  # torch and all: not before the data are found to be good

        def load(split: str) -> DetectionDataset:
            return load_dataset(
                self.data,
                split,
                max_faulty_boxes=self.settings.data.max_faulty_boxes,
                voc_one_based=self.settings.data.voc_one_based,
            )

        train_data, val_data = load(self.split), load(val) if val else None
        if main_process and val_data is not None:
            _tell_of_shared_images(train_data, val_data)
        result = train(
            settings=self.settings,
            train_data=train_data,
            val_data=val_data,
            out=self.out,
            resume=self.resume,
            overwrite=self.overwrite,
        )
        if main_process:
            if result.best is not None:
                print(f"best AP {result.best['AP']:.3f}, AP50 {result.best['AP50']:.3f} on '{val}'")
            print(f"the trained model is {result.model}; use it with: mimicdet predict {result.model} IMAGES")
        return 0

    def _check(self, val: str | None) -> None:
        """What ``mimicdet check`` does, over the splits that take part."""
        from mimicdet.data.check import check_dataset

        report = check_dataset(
            self.data,
            splits=[split for split in (self.split, val) if split],
            max_faulty_boxes=self.settings.data.max_faulty_boxes,
            voc_one_based=self.settings.data.voc_one_based,
            verify_images=self.images and not self.resume,  # a run that goes on has been through it
        )
        print("\n".join(line for line in report.lines() if not line.startswith("fingerprint")), flush=True)
        report.raise_errors()
        if val is None:
            print(f"{self.data} has no validation split: the last weights are kept, none are called best")


def _tell_of_shared_images(train_data: DetectionDataset, val_data: DetectionDataset) -> None:
    shared = {record.file for record in train_data.images} & {record.file for record in val_data.images}
    if shared:
        print(
            f"{len(shared)} of the {len(val_data)} images of '{val_data.split}' are trained on too: the AP on it, and "
            "the weights that are best by it, say little about other images"
        )


def _take_teachers(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The values of every ``--teacher``, which is another name of ``--distill.teachers``, and what remains."""
    teachers: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        option, equals, value = word.partition("=")
        if option != "--teacher":
            rest.append(word)
            continue
        path = value if equals else next(words, "")
        if not path or path.startswith("--"):
            raise UserError("--teacher needs a value: a model folder, a run folder or a file of weights")
        teachers.append(path)
    return teachers, rest
