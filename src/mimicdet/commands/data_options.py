"""How the commands that read a data set read it; as ``--key value``, without a prefix."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import arg

if TYPE_CHECKING:
    from mimicdet.data.dataset import DetectionDataset


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Of a data set that is read."""

    PREFIXED: ClassVar[bool] = False

    max_faulty_boxes: Annotated[float, arg(metavar="SHARE")] = 0.05
    """A larger share of faulty boxes than this is an error."""
    voc_one_based: bool = False
    """VOC coordinates that are read count pixels from 1 (the original PASCAL VOC) instead of 0."""

    def load(self, data: Path, split: str) -> DetectionDataset:
        """A split of the data set, as ``load_dataset`` reads it; UserError as there."""
        from mimicdet.data.splits import load_dataset

        return load_dataset(data, split, max_faulty_boxes=self.max_faulty_boxes, voc_one_based=self.voc_one_based)


Reading = Annotated[DataOptions, arg(name="")]
"""The type of a command's field that holds them."""
