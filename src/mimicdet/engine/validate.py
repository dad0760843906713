"""Evaluation during training, and which weights are kept."""

from __future__ import annotations

import sys

from mimicdet.engine.metrics_file import Record
from mimicdet.engine.processes import on_main, share_buffers
from mimicdet.engine.start import Run
from mimicdet.inference.coco_metrics import METRIC_NAMES, Metrics
from mimicdet.inference.dataset import Runner, evaluate_runner, evaluation_mode
from mimicdet.inference.folded import FoldedModel
from mimicdet.models.detector import DetectionModel
from mimicdet.tasks.mimic import MimicTask
from mimicdet.weights.folder import save_model


def validate(run: Run) -> Record | None:
    """Evaluates the current weights, keeps them as the last and, where no AP was higher, as the best.

    In full precision whatever training uses, and with folded batch norm, so that ``mimicdet eval`` finds the same
    numbers in what is kept. Without a validation split the last weights are all there is, and ``model/`` gets them.

    Returns:
        The evaluation's record, None without a validation split. Every process must call this.
    """
    progress, task = run.state.progress, run.state.shipped_task
    share_buffers(run.accelerator, task)
    if run.val_data is None:
        _save(run, task.detector, None, best=True)
        return None
    teacher = None
    with evaluation_mode(task):
        metrics = _measure(run, FoldedModel(task.detector))
        if run.settings.train.eval_teacher:
            assert isinstance(task, MimicTask)
            teacher = _measure(run, task.t_head_runner(run.accelerator.device))
    record = run.log.eval_record(metrics, teacher)
    progress.last = record
    best = progress.best is None or record["AP"] > progress.best["AP"]
    if best:
        progress.best = record
    _save(run, task.detector, record, best=best)
    return record


def _measure(run: Run, runner: Runner) -> Metrics:
    settings = run.settings
    assert run.val_data is not None
    return evaluate_runner(
        runner, run.val_data, settings.inference, workers=settings.data.workers, progress=sys.stderr.isatty()
    )


def _save(run: Run, detector: DetectionModel, record: Record | None, *, best: bool) -> None:
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
