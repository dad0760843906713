"""Trains each detector alone (``task: detect``): MimicDet, RetinaNet, FCOS, ATSS, GFL and Faster R-CNN."""

from typing import NoReturn

import torch
from torch import Tensor

from mimicdet.assign import match_objects
from mimicdet.config import MimicDetSettings
from mimicdet.data.batch import Batch
from mimicdet.losses.one_stage import Learning, Matched
from mimicdet.models.detector import Places
from mimicdet.models.faster_rcnn import FasterRcnn
from mimicdet.models.mimicdet import MimicDet
from mimicdet.models.one_stage import OneStage, OneStageMaps
from mimicdet.tasks.diagnostics import positives_by_level, student_diagnostics
from mimicdet.tasks.student import count_anchor_positives, dense_step, prepare, student_sums, total
from mimicdet.tasks.task import Task, TaskStep, WholeStep, divisors


class DetectTask(Task):
    """Trains MimicDet without a T-head: L_R + L_S (Table 1, first row)."""

    detector: MimicDet

    def __init__(self, *, detector: MimicDet, settings: MimicDetSettings) -> None:
        super().__init__(detector=detector)
        self.assign, self.loss = settings.assign, settings.loss

    def count_positives(self, batch: Batch) -> Tensor:
        return count_anchor_positives(self.detector, batch, self.assign)

    def step(self, batch: Batch, whole: WholeStep | None = None) -> TaskStep:
        prepared = prepare(self.detector, batch, self.assign)
        sums = student_sums(self.detector, batch, prepared, self.assign)
        counts = divisors([None, sums.class_count, sums.box_count], sums.anchor_positives, whole)
        losses = total(sums.parts(counts), self.loss)
        losses |= student_diagnostics(self.detector, batch, prepared, sums)
        return dense_step(self.detector, batch, prepared, losses, self.assign)


class OneStageTask(Task):
    """Trains RetinaNet, FCOS, ATSS or GFL by ``learning``: its assignment and its own weighted losses."""

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
        if batch.labels.shape[1]:
            boxes, labels = batch.boxes[image, index], batch.labels[image, index]
        else:  # no rows to look up, and no positive points there
            boxes, labels = maps.places.anchors.new_zeros(0, 4), match.new_zeros(0)
        sums = self.learning.sums(Matched(self.detector, maps, match, image, anchor, boxes, labels))
        positives = boxes.new_tensor(len(image), dtype=torch.float32)
        counts = divisors([part.share for part in sums.values()], positives, whole)
        parts = {name: part.total / count for (name, part), count in zip(sums.items(), counts, strict=True)}
        weighted = torch.stack([self.learning.weights[name] * part for name, part in parts.items()]).sum()
        # Branches without a positive still belong to the graph of every process
        losses = {"loss": weighted + 0 * sum(part.sum() for part in maps.head if part is not None)}
        losses |= {name: part.detach() for name, part in parts.items()}
        return losses | positives_by_level(match, maps.places.level, self.detector.trunk.level_numbers)


class FasterRcnnTask(Task):
    """Trains Faster R-CNN: the sum of torchvision's losses of both stages, divided by each process's own counts."""

    detector: FasterRcnn

    def step(self, batch: Batch, whole: WholeStep | None = None) -> TaskStep:
        """Returns the losses; crowd regions teach nothing, and are background. No teacher's lesson reads this task."""
        real = (batch.labels >= 0) & ~batch.crowd
        objects = zip(batch.boxes, batch.labels, real, strict=True)
        targets = [{"boxes": boxes[own], "labels": labels[own]} for boxes, labels, own in objects]
        device = batch.images.device
        # Torchvision draws its samples from the global state, image after image: what is drawn depends on the batch
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(batch.seeds[0]))
            losses = self.detector.losses(batch.images, batch.sizes, targets)
        parts = {name: loss.detach() for name, loss in losses.items()}
        return TaskStep({"loss": torch.stack(list(losses.values())).sum()} | parts, _no_student, _no_student)

    def count_positives(self, batch: Batch) -> Tensor:
        """Returns 0: torchvision divides by counts of its own."""
        return torch.zeros((), device=batch.images.device)


def _no_student() -> NoReturn:
    raise TypeError("Faster R-CNN is no student: settings give task 'distill' to dense detectors alone")
