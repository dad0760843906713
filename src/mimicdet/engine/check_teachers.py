"""Teachers are tried on a sample before training: one whose weights were not loaded would teach noise in silence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from mimicdet.config import InferenceSettings, Settings
from mimicdet.data.batch import Batch
from mimicdet.data.dataset import DetectionDataset, ImageRecord
from mimicdet.errors import UserError
from mimicdet.inference.coco_metrics import Metrics
from mimicdet.inference.dataset import FunctionRunner, evaluate_runner
from mimicdet.inference.decode import Detections
from mimicdet.models.detector import DIVISOR
from mimicdet.teachers.teacher import UNKNOWN, Teacher

LEAST_AP50 = 0.01
"""Below this a teacher is said to find nothing; guessing gives less."""


def try_teacher(teacher: Teacher, sample: DetectionDataset, settings: Settings, device: torch.device) -> Metrics:
    """COCO's numbers of a teacher on a sample, which it sees as it will see the student's images.

    Args:
        sample: with the classes alone that the teacher knows, see :func:`sample_of`.

    Raises:
        UserError: it finds nothing.
    """
    student_class = {theirs: ours for ours, theirs in enumerate(teacher.classes) if theirs != UNKNOWN}

    def detect_batch(batch: Batch, _: InferenceSettings) -> list[Detections]:
        found = teacher.detect(batch.images, batch.sizes)
        return [_in_students_classes(detections, student_class) for detections in found]

    # One by one, at the size of the student's images, whatever the batch size of the student's own evaluation
    inference = settings.inference.model_copy(update={"batch_size": 1})
    metrics = evaluate_runner(FunctionRunner(detect_batch, device, DIVISOR), sample, inference)
    if metrics["AP50"] < LEAST_AP50:
        raise UserError(
            f"{teacher.name}: the teacher finds next to nothing in {len(sample)} images of '{sample.split}' (AP50 "
            f"{metrics['AP50']:.3f}); are these its weights, its classes, and the size it was trained at "
            f"(distill.teacher_scale)? --distill.trust_teacher trains with it nevertheless"
        )
    return metrics


def sample_of(datasets: Sequence[DetectionDataset | None], count: int, classes: Sequence[int]) -> DetectionDataset:
    """The first ``count`` images with objects that the teacher knows, and these, of the first data set with any.

    Args:
        classes: for each of the data set's classes the teacher's index, or UNKNOWN.
    """
    known = np.array([index != UNKNOWN for index in classes])
    for dataset in datasets:
        if dataset is None:
            continue
        images = [_only(record, known[record.labels]) for record in dataset.images]
        images = [record for record in images if not record.crowd.all()]
        if images:
            return dataclasses.replace(dataset, images=tuple(images[:count]))
    raise UserError(
        "no image has an object of the teacher's classes to try it on; --distill.trust_teacher trains without trying it"
    )


def _only(record: ImageRecord, kept: np.ndarray) -> ImageRecord:
    return dataclasses.replace(
        record, boxes=record.boxes[kept], labels=record.labels[kept], crowd=record.crowd[kept], areas=record.areas[kept]
    )


def _in_students_classes(detections: Detections, student_class: dict[int, int]) -> Detections:
    labels = detections.labels.tolist()
    kept = [i for i, label in enumerate(labels) if label in student_class]
    index = torch.tensor(kept, dtype=torch.int64, device=detections.labels.device)
    return Detections(
        detections.boxes[index],
        detections.scores[index],
        torch.tensor([student_class[labels[i]] for i in kept], dtype=torch.int64, device=index.device),
    )
