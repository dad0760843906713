"""What a task gives to whoever builds on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from mimicdet.models.dense import DenseMaps


class TaskStep(NamedTuple):
    """A detector's own losses on a batch, and what distillation reads besides."""

    losses: dict[str, Tensor]  # as the task's ``forward``
    match: Callable[[], Tensor]  # (B, A) int64, index of the object that each position is assigned; below 0: none
    maps: Callable[[], DenseMaps]  # computed when asked for, as is ``match``: MimicDet's are dense only then
