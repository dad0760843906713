"""Evaluation during training, and which weights are kept."""

from __future__ import annotations

import sys
from functools import partial

from torch import nn

from mimicdet.engine.metrics_file import Record
from mimicdet.engine.processes import on_main, share_buffers
from mimicdet.engine.start import Run
from mimicdet.inference.coco_metrics import METRIC_NAMES
from mimicdet.inference.evaluate import evaluate, evaluate_with, evaluation_mode
from mimicdet.tasks.mimic import MimicTask
from mimicdet.weights.folder import save_model


def validate(run: Run) -> Record | None:
    """Evaluates the current weights, keeps them as the last and, where no AP was higher, as the best.

    In full precision whatever training uses, so that ``mimicdet eval`` finds the same numbers in what is kept.
    Without a validation split the last weights are all there is, and ``model/`` gets them.

    Returns:
        The evaluation's record, None without a validation split. Every process must call this.
    """
    progress, task = run.state.progress, run.state.shipped_task
    detector = task.get_submodule("detector")
    share_buffers(run.accelerator, task)
    if run.val_data is None:
        _save(run, detector, None, best=True)
        return None
    inference = run.settings.inference
    metrics = evaluate(
        detector, run.val_data, **inference.model_dump(), device=run.accelerator.device,
        workers=run.settings.data.workers, progress=sys.stderr.isatty(),
    )  # fmt: skip
    teacher = None
    if run.settings.train.eval_teacher:
        assert isinstance(task, MimicTask)
        detect_teacher = partial(
            task.detect_teacher, top=inference.positions, score_threshold=inference.score_threshold,
            nms_iou=inference.nms_iou, max_detections=inference.max_detections,
            flips=inference.flips,
        )  # fmt: skip
        with evaluation_mode(task):
            teacher = evaluate_with(
                detect_teacher, run.val_data, shorter_side=inference.shorter_side, longer_side=inference.longer_side,
                batch_size=inference.batch_size, device=run.accelerator.device, workers=run.settings.data.workers,
                progress=sys.stderr.isatty(),
            )  # fmt: skip
    record = run.log.eval_record(metrics, teacher)
    progress.last = record
    best = progress.best is None or record["AP"] > progress.best["AP"]
    if best:
        progress.best = record
    _save(run, detector, record, best=best)
    return record


def _save(run: Run, detector: nn.Module, record: Record | None, *, best: bool) -> None:
    progress, settings = run.state.progress, run.settings
    extra = {"step": progress.step, "trained_epochs": progress.epoch + (progress.batch > 0)}
    if record is not None:
        extra |= {"split": run.val_data.split if run.val_data else None} | {name: record[name] for name in METRIC_NAMES}

    def save() -> None:
        folders = [run.folder.last_model] if run.val_data is not None else []
        for folder in [*folders, *([run.folder.model] if best else [])]:
            save_model(
                folder,
                detector,
                model_settings=settings.model.model_dump(mode="json"),
                inference=settings.inference.model_dump(mode="json"),
                categories=run.train_data.categories,
                extra=extra,
            )

    on_main(run.accelerator, save)
