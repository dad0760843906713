"""The options of every command that reads a data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from mimicdet.commands.parser import Argument

if TYPE_CHECKING:
    from mimicdet.data.dataset import DetectionDataset


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """A command that reads a data set, by these options."""

    # Described here because pydantic reads docstrings of a class's own fields alone, not of inherited ones
    max_faulty_boxes: Annotated[
        float, Argument("SHARE"), Field(description="A larger share of faulty boxes than this is an error.")
    ] = 0.05
    voc_one_based: Annotated[
        bool,
        Field(description="VOC coordinates that are read count pixels from 1 (the original PASCAL VOC) instead of 0."),
    ] = False

    def load(self, data: Path, split: str) -> DetectionDataset:
        """Returns a split of the data set, as ``load_dataset`` reads it; UserError as there."""
        from mimicdet.data.splits import load_dataset

        return load_dataset(data, split, max_faulty_boxes=self.max_faulty_boxes, voc_one_based=self.voc_one_based)
