"""Teachers are tried on a sample before training: one whose weights were not loaded would teach noise in silence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from mimicdet.config import Settings
from mimicdet.data.batch import Batch
from mimicdet.data.dataset import DetectionDataset
from mimicdet.engine.coco_metrics import Metrics
from mimicdet.engine.evaluate import evaluate_with
from mimicdet.errors import UserError
from mimicdet.models.decode import Detections
from mimicdet.teachers.frozen import FrozenTeacher
from mimicdet.teachers.match_maps import UNKNOWN
from mimicdet.teachers.roi import RoiTeacher

LEAST_AP50 = 0.01
"""Below this a teacher is said to find nothing; guessing gives less."""


def try_teacher(
    teacher: FrozenTeacher | RoiTeacher, sample: DetectionDataset, settings: Settings, device: torch.device
) -> Metrics:
    """COCO's numbers of a teacher on a sample, at the size at which it will see the student's images.

    Raises:
        UserError: it finds nothing.
    """
    inference, scale = settings.inference, teacher.scale
    student_class = {theirs: ours for ours, theirs in enumerate(teacher.classes) if theirs != UNKNOWN}

    def detect_batch(batch: Batch) -> list[Detections]:
        found = teacher.detect(batch.images, batch.sizes)
        return [_in_students_classes(detections, student_class) for detections in found]

    metrics = evaluate_with(
        detect_batch, sample, shorter_side=round(inference.shorter_side * scale),
        longer_side=round(inference.longer_side * scale), device=device,
    )  # fmt: skip
    if metrics["AP50"] < LEAST_AP50:
        raise UserError(
            f"{teacher.name}: the teacher finds next to nothing in {len(sample)} images of '{sample.split}' (AP50 "
            f"{metrics['AP50']:.3f}); are these its weights, its classes, and the size it was trained at "
            f"(distill.teacher_scale)? --distill.trust_teacher trains with it nevertheless"
        )
    return metrics


def sample_of(datasets: Sequence[DetectionDataset | None], count: int) -> DetectionDataset:
    """The first ``count`` images with objects of the first data set that has any."""
    for dataset in datasets:
        if dataset is None:
            continue
        images = [record for record in dataset.images if not record.crowd.all()]
        if images:
            return dataclasses.replace(dataset, images=tuple(images[:count]))
    raise UserError("no image has an object to try the teacher on; --distill.trust_teacher trains without trying it")


def _in_students_classes(detections: Detections, student_class: dict[int, int]) -> Detections:
    labels = detections.labels.tolist()
    kept = [i for i, label in enumerate(labels) if label in student_class]
    index = torch.tensor(kept, dtype=torch.int64, device=detections.labels.device)
    return Detections(
        detections.boxes[index],
        detections.scores[index],
        torch.tensor([student_class[labels[i]] for i in kept], dtype=torch.int64, device=index.device),
    )
