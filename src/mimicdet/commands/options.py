"""Has the options that several commands take: how a data set is read, and how a trained model detects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from mimicdet.commands.parser import COMMAND_LINE, Argument, SettingsOptions
from mimicdet.config import InferenceSettings
from mimicdet.settings_file import Layer, resolve

if TYPE_CHECKING:
    from mimicdet.data.check import CheckReport
    from mimicdet.data.dataset import DetectionDataset

_ONE_BASED = "VOC coordinates that are read count pixels from 1 (the original PASCAL VOC) instead of 0."
_OUTSIDE = "Images outside the data set's folder are read too, where the annotations name such."


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """A command that reads a data set takes these options."""

    # Described here because pydantic reads docstrings of a class's own fields alone, not of inherited ones
    max_faulty_boxes: Annotated[
        float, Argument("SHARE"), Field(description="A larger share of faulty boxes than this is an error.")
    ] = 0.05
    voc_one_based: Annotated[bool, Field(description=_ONE_BASED)] = False
    outside: Annotated[bool, Field(description=_OUTSIDE)] = False

    def load(self, data: Path, split: str, *, annotated: bool = True, large: bool = False) -> DetectionDataset:
        """Returns a split of the data set, as ``load_dataset`` reads it; UserError as there."""
        from mimicdet.data.splits import load_dataset

        return load_dataset(data, split, **self.reading, annotated=annotated, large=large)

    def check(self, data: Path, splits: Sequence[str] | None, *, images: bool) -> CheckReport:
        """Returns what ``check_dataset`` finds in the splits, all of them for None; ``images``: in every image too."""
        from mimicdet.data.check import check_dataset

        return check_dataset(data, splits=splits, verify_images=images, **self.reading)

    @property
    def reading(self) -> dict[str, Any]:
        """Returns the same as arguments of ``load_dataset``, ``check_dataset`` and ``convert_dataset``."""
        names = ("max_faulty_boxes", "voc_one_based", "outside")
        return {name: getattr(self, name) for name in names}


def model_files(model: Path) -> tuple[Path, ...]:
    """Returns what is read of a model: its folder, or an exported file and the description beside it."""
    return (model, Path(f"{model}.json")) if model.is_file() else (model,)


def is_model_file(file: Path) -> bool:
    """Says whether a file in a model's folder belongs to the model; numbers that were written beside it do not."""
    return file.name == "model.json" or file.suffix.lower() != ".json"


_STORED = "These are stored with the model; what is given here is used instead."
InferenceOptions = Annotated[dict[str, Any], SettingsOptions("inference.", title=_STORED)]
"""The type of a command's field for ``--inference.key value``: the settings of that section, none repeated."""


def with_options(settings: InferenceSettings, given: Mapping[str, Any], model: Path) -> InferenceSettings:
    """Returns the settings of ``model`` with what was given on the command line in their place."""
    stored = {f"inference.{key}": value for key, value in settings.model_dump(mode="json").items()}
    return resolve([Layer(f"in {model}", stored), Layer(COMMAND_LINE, dict(given))]).inference
