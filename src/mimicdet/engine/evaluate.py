"""What a run evaluates: its teachers before it begins, its weights as they learn, and in pictures what it ends with."""

import dataclasses
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch

from mimicdet.build import load_model
from mimicdet.config import InferenceSettings, Settings
from mimicdet.data.batch import Batch
from mimicdet.data.dataset import DetectionDataset, ImageRecord
from mimicdet.data.decode import read_image
from mimicdet.engine.processes import on_main, share_buffers
from mimicdet.engine.run_folder import Record
from mimicdet.engine.start import Run
from mimicdet.errors import UserError
from mimicdet.files import failures_of, fitting_name, make_folder, replace_file
from mimicdet.inference.coco_metrics import METRIC_NAMES, Metrics
from mimicdet.inference.dataset import FunctionRunner, Runner, detect_dataset, evaluate_runner, evaluation_mode
from mimicdet.inference.decode import Detections
from mimicdet.inference.detect import detect
from mimicdet.inference.fold import FoldedModel, fold_detector
from mimicdet.models.detector import DIVISOR, DetectionModel
from mimicdet.report.curves import draw_curves
from mimicdet.report.draw import draw_boxes, encoded
from mimicdet.report.fonts import numbered_names
from mimicdet.report.table import points
from mimicdet.teachers.teacher import UNKNOWN, Teacher
from mimicdet.weights.folder import save_model

LEAST_AP50 = 0.01
"""Below this a teacher is said to find nothing; guessing gives less."""
SHOWN = 0.3
"""Detections with at least this score are drawn."""


def try_teachers(run: Run) -> None:
    """Tries a distillation's teachers on a sample: one whose weights were not loaded would teach noise in silence."""
    if run.settings.task != "distill":
        return
    for teacher in run.state.task.teachers:
        if run.settings.distill.trust_teacher:
            run.log.say(f"teacher {teacher.name} is trusted without a trial (distill.trust_teacher)")
            continue
        sample = sample_of((run.val_data, run.train_data), run.settings.distill.check_images, teacher.classes)
        metrics = _try_teacher(teacher, sample, run.settings, run.accelerator.device)
        found = f"AP {points(metrics['AP'])}, AP50 {points(metrics['AP50'])}"
        run.log.say(f"teacher {teacher.name}: {found} on {len(sample)} images of '{sample.split}'")


def _try_teacher(teacher: Teacher, sample: DetectionDataset, settings: Settings, device: torch.device) -> Metrics:
    student_class = {theirs: ours for ours, theirs in enumerate(teacher.classes) if theirs != UNKNOWN}

    def detect_batch(batch: Batch, _: InferenceSettings) -> list[Detections]:
        return [_in_students_classes(found, student_class) for found in teacher.detect(batch.images, batch.sizes)]

    # One by one, at the size of the student's images, whatever the batch size of the student's own evaluation
    inference = settings.inference.model_copy(update={"batch_size": 1})
    metrics = evaluate_runner(FunctionRunner(detect_batch, device, DIVISOR), sample, inference)
    if metrics["AP50"] < LEAST_AP50:
        raise UserError(
            f"{teacher.name}: the teacher finds next to nothing in {len(sample)} images of '{sample.split}' (AP50 "
            f"{points(metrics['AP50'])}); are these its weights, its classes, and the size it was trained at "
            f"(distill.teacher_scale)? --distill.trust_teacher trains with it nevertheless"
        )
    return metrics


def sample_of(datasets: Sequence[DetectionDataset | None], count: int, classes: Sequence[int]) -> DetectionDataset:
    """Returns the first ``count`` images with objects the teacher knows, and these, of the first data set with any.

    ``classes`` are the teacher's index, or UNKNOWN, for each of the data set's.
    """
    known = np.array([index != UNKNOWN for index in classes])
    for dataset in filter(None, datasets):
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


def _in_students_classes(found: Detections, student_class: dict[int, int]) -> Detections:
    known = [(i, student_class[label]) for i, label in enumerate(found.labels.tolist()) if label in student_class]
    index, labels = torch.tensor(known, dtype=torch.int64, device=found.labels.device).reshape(-1, 2).unbind(1)
    return Detections(found.boxes[index], found.scores[index], labels)


def validate(run: Run) -> Record | None:
    """Evaluates the current weights, keeps them as the last and, where no AP was higher, as the best.

    Where no AP is defined, for the split has no objects, the last weights are in ``model/`` and none are the best.

    In full precision whatever training uses, and with folded batch norm, so that ``mimicdet eval`` finds the same
    numbers in what is kept. Without a validation split the last weights are all there is, ``model/`` gets them, and the
    record returned is None. Every process must call this.
    """
    progress, task = run.state.progress, run.state.shipped_task
    share_buffers(run.accelerator, task)
    if run.val_data is None:
        _save(run, task.detector, None, best=True)
        return None
    t_head = task.t_head_runner(run.accelerator.device) if run.settings.train.eval_teacher else None
    with evaluation_mode(task):
        metrics = _measure(run, run.val_data, _folded_runner(task.detector, run.accelerator.device))
        record = run.log.eval_record(metrics, None if t_head is None else _measure(run, run.val_data, t_head))
    progress.last = record
    best = record["AP"] is not None and (progress.best is None or record["AP"] >= progress.best["AP"])
    if best:
        progress.best = record
    _save(run, task.detector, record, best=best or progress.best is None)
    return record


def _folded_runner(detector: DetectionModel, device: torch.device) -> FunctionRunner:
    """Runs a detector whose weights do not change meanwhile: folded once, where ``FoldedModel`` asks at each batch."""
    folded = fold_detector(detector)

    def detect_batch(batch: Batch, inference: InferenceSettings) -> list[Detections]:
        return detect(folded, batch.images, batch.sizes, inference)

    return FunctionRunner(detect_batch, device, detector.divisor)


def _measure(run: Run, dataset: DetectionDataset, runner: Runner) -> Metrics:
    inference, workers = run.settings.inference, run.settings.data.workers
    return evaluate_runner(runner, dataset, inference, workers=workers, progress=sys.stderr.isatty())


def _save(run: Run, detector: DetectionModel, record: Record | None, *, best: bool) -> None:
    progress, settings = run.state.progress, run.settings
    extra = {"step": progress.step, "trained_epochs": progress.epoch + (progress.batch > 0)}
    if record is not None:
        extra |= {"split": run.val_data.split if run.val_data else None} | {name: record[name] for name in METRIC_NAMES}

    model, inference = settings.model.model_dump(mode="json"), settings.inference.model_dump(mode="json")
    described: Any = {"model_settings": model, "inference": inference, "categories": run.train_data.categories}

    def save() -> None:
        folders = [run.folder.last_model] if run.val_data is not None else []
        for folder in [*folders, run.folder.model] if best else folders:
            save_model(folder, detector, **described, extra=extra)

    on_main(run.accelerator, save)


def draw_run(run: Run) -> list[str]:
    """Draws curves.png, and ``train.pictures`` images of the validation split into pictures/, with what ``model/``
    finds and with the objects themselves; of the training split where there is no other. Every process must call this.

    Returns a sentence for each picture that could not be made or written, which costs the run nothing else.
    """
    folder, number = run.folder, run.settings.train.pictures
    curves = partial(draw_curves, folder.metrics_file, folder.curves)
    failures = on_main(run.accelerator, lambda: failures_of(curves))
    if number:
        dataset = run.val_data or run.train_data
        spread = sorted({i * len(dataset) // number for i in range(number)})  # evenly over the data set
        chosen = dataclasses.replace(dataset, images=tuple(dataset.images[i] for i in spread))
        loaded = load_model(folder.model, run.accelerator.device)
        threshold = max(SHOWN, loaded.inference.score_threshold)
        inference = loaded.inference.model_copy(update={"score_threshold": threshold})
        found = detect_dataset(FoldedModel(loaded.model), chosen, inference)
        failures += on_main(run.accelerator, lambda: _draw(run, chosen, found))
    return failures


def _draw(run: Run, dataset: DetectionDataset, found: list[dict[str, Any]]) -> list[str]:
    label = {category.id: i for i, category in enumerate(dataset.categories)}

    def draw(number: int, record: ImageRecord) -> None:
        make_folder(run.folder.pictures)
        results = [result for result in found if result["image_id"] == record.id]
        boxes = np.array([result["bbox"] for result in results]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]  # x y width height -> x1 y1 x2 y2
        labels = np.array([label[result["category_id"]] for result in results], dtype=np.int64)
        scores = np.array([result["score"] for result in results])
        truth: Any = {"truth_boxes": record.boxes[~record.crowd], "truth_labels": record.labels[~record.crowd]}
        image, names = read_image(record.file), dataset.class_names
        picture = draw_boxes(image, boxes, labels, class_names=names, scores=scores, **truth)
        name = fitting_name(f"{number:02}-", record.file.stem, ".png")
        replace_file(run.folder.pictures / name, encoded(picture, "PNG"))

    def number_classes() -> None:
        if numbered := numbered_names(dataset.class_names):
            make_folder(run.folder.pictures)
            replace_file(run.folder.pictures / "classes.txt", numbered.encode(errors="backslashreplace"))

    drawings = (partial(draw, number, record) for number, record in enumerate(dataset.images, start=1))
    return failures_of(*drawings, number_classes)
