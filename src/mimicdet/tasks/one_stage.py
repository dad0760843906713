"""Training RetinaNet, FCOS, ATSS or GFL alone."""

from __future__ import annotations

import torch
from torch import Tensor

from mimicdet.assign import match_objects
from mimicdet.data.batch import Batch
from mimicdet.losses.one_stage import Learning, Matched
from mimicdet.models.detector import Places
from mimicdet.models.one_stage import OneStage, OneStageMaps
from mimicdet.tasks.diagnostics import positives_by_level
from mimicdet.tasks.task import Task, TaskStep, WholeStep, divisors


class OneStageTask(Task):
    """A detector's own losses, weighted.

    Args:
        detector: what ships.
        learning: its assignment and losses, and their weights.
    """

    detector: OneStage

    def __init__(self, *, detector: OneStage, learning: Learning) -> None:
        super().__init__(detector=detector)
        self.learning = learning

    @torch.no_grad()
    def count_positives(self, batch: Batch) -> Tensor:
        places = self.detector.places_of(batch.images)
        return (self._match(batch, places, places.valid(batch.sizes)) >= 0).sum().float()

    def step(self, batch: Batch, whole: WholeStep | None = None) -> TaskStep:
        maps = self.detector.maps(batch.images, batch.sizes)
        match = self._match(batch, maps.places, maps.valid)
        losses = self._losses(batch, maps, match, whole)
        return TaskStep(losses, lambda: match, lambda: self.detector.dense_maps_of(maps))

    def _match(self, batch: Batch, places: Places, valid: Tensor) -> Tensor:
        return match_objects(self.learning.match, places, valid, batch.boxes, batch.labels, batch.crowd)

    def _losses(self, batch: Batch, maps: OneStageMaps, match: Tensor, whole: WholeStep | None) -> dict[str, Tensor]:
        image, anchor = (match >= 0).nonzero().unbind(1)
        index = match[image, anchor]
        # An image without objects has no rows to look up; no positive points there
        boxes, labels = (
            (batch.boxes[image, index], batch.labels[image, index])
            if batch.labels.shape[1]
            else (maps.places.anchors.new_zeros(0, 4), match.new_zeros(0))
        )
        sums = self.learning.sums(Matched(self.detector, maps, match, image, anchor, boxes, labels))
        positives = boxes.new_tensor(len(image), dtype=torch.float32)
        counts = divisors([part.share for part in sums.values()], positives, whole)
        parts = {name: part.total / count for (name, part), count in zip(sums.items(), counts, strict=True)}
        # Branches without a positive still belong to the graph of every process
        loss = torch.stack([self.learning.weights[name] * part for name, part in parts.items()]).sum() + 0 * sum(
            part.sum() for part in maps.head if part is not None
        )
        return (
            {"loss": loss}
            | {name: part.detach() for name, part in parts.items()}
            | positives_by_level(match, maps.places.level, self.detector.trunk.level_numbers)
        )
