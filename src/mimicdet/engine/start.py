"""Builds a run from its settings, or continues one from its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from mimicdet.config import Settings
from mimicdet.data.dataset import DetectionDataset
from mimicdet.data.loader import TrainData, TrainLoader
from mimicdet.data.order import rank_indices
from mimicdet.data.transform import TrainTransform
from mimicdet.engine.checkpoint import (
    fingerprint,
    load_checkpoint,
    newest_checkpoint,
    require_same_run,
    require_same_teachers,
    save_checkpoint,
)
from mimicdet.engine.ema import moving_average
from mimicdet.engine.interval import IntervalMeans
from mimicdet.engine.log import RunLog
from mimicdet.engine.optim import freeze_by_settings, lr_at, make_optimizer
from mimicdet.engine.processes import on_main
from mimicdet.engine.run_folder import RunFolder
from mimicdet.engine.state import RunState
from mimicdet.engine.step import Stepper
from mimicdet.errors import UserError
from mimicdet.tasks import Task, build_task


@dataclass(frozen=True)
class Run:
    """A run, ready to train: what the loop works with."""

    accelerator: Accelerator
    settings: Settings
    train_data: DetectionDataset
    val_data: DetectionDataset | None
    folder: RunFolder
    state: RunState
    step: Stepper
    loader: TrainLoader
    log: RunLog
    steps_per_epoch: int
    fingerprint: dict[str, Any]
    teachers: tuple[str, ...]  # hashes of their weights

    def batches(self, epoch: int) -> list[list[int]]:
        """Indices of the images of each batch of this process in ``epoch``."""
        return _batches(self.accelerator, self.settings, self.train_data, epoch)

    def lr(self, step: int) -> float:
        """The learning rate of optimiser step ``step``, from 0."""
        train, optim = self.settings.train, self.settings.optim
        images_per_step = train.batch_size * self.accelerator.num_processes * optim.accumulate
        return lr_at(
            step, optim, images_per_step=images_per_step, steps_per_epoch=self.steps_per_epoch, epochs=train.epochs
        )

    def save_checkpoint(self) -> None:
        """Makes the state the last checkpoint; every process must call it."""
        state = {
            **self.state.state_dict(),
            "settings": self.settings.model_dump(mode="json"),
            "data": self.fingerprint,
            "teachers": list(self.teachers),
            "processes": self.accelerator.num_processes,
        }
        on_main(self.accelerator, lambda: save_checkpoint(self.folder.checkpoints, state))


def start_run(
    accelerator: Accelerator,
    *,
    settings: Settings,
    train_data: DetectionDataset,
    val_data: DetectionDataset | None,
    folder: RunFolder,
    resume: bool,
    overwrite: bool,
) -> Run:
    """A new run, or with ``resume`` the one in ``folder``, exactly where its checkpoint was written.

    Raises:
        UserError: the data sets do not go together or with the settings; the folder may not be written to (see
            ``RunFolder.open``); its checkpoints are broken or of another run; backbone weights that are not to be had.
    """
    _require_sensible(settings, train_data, val_data)
    on_main(accelerator, lambda: folder.require_fit(resume=resume, overwrite=overwrite))
    _require_lasting_teachers(settings, folder, overwrite=overwrite)
    data = fingerprint(train_data)
    file, notice = on_main(accelerator, lambda: newest_checkpoint(folder.checkpoints)) if resume else (None, None)
    saved = load_checkpoint(file) if file is not None else None
    if saved is not None and file is not None:
        require_same_run(saved, settings=settings, data=data, processes=accelerator.num_processes, file=file)

    torch.manual_seed(settings.train.seed)
    task = build_task(settings, class_names=train_data.class_names, pretrained=saved is None)
    teachers = [(teacher.name, teacher.weights_hash()) for teacher in task.teachers]
    if saved is not None and file is not None:
        require_same_teachers(saved, teachers=teachers, file=file)
    # Channels last makes convolutions faster on GPUs with half precision and on CPUs (a step of `small` by a fifth)
    task = task.to(accelerator.device).to(memory_format=torch.channels_last)
    freeze_by_settings(task, settings.optim)
    average = moving_average(task, settings.optim.ema_decay) if settings.optim.ema_decay else None
    model = accelerator.prepare_model(task)
    optimizer = accelerator.prepare_optimizer(make_optimizer(task, settings.optim))
    state = RunState(
        accelerator=accelerator, task=task, optimizer=optimizer, average=average, means=IntervalMeans(accelerator)
    )
    if saved is not None and file is not None:
        state.load_state_dict(saved, file)
        if state.progress.epoch > settings.train.epochs:
            raise UserError(
                f"train.epochs: the run in {folder.path} has done {state.progress.epoch} epochs already, more than "
                f"{settings.train.epochs}"
            )
    steps_per_epoch = len(_batches(accelerator, settings, train_data, 0)) // settings.optim.accumulate
    transform = _transform(settings)
    # Not before all is built: what cannot start neither replaces a run nor leaves one
    on_main(accelerator, lambda: folder.open(resume=resume, overwrite=overwrite))
    on_main(accelerator, lambda: folder.write_settings(settings))
    run = Run(
        accelerator=accelerator,
        settings=settings,
        train_data=train_data,
        val_data=val_data,
        folder=folder,
        state=state,
        step=Stepper(
            accelerator=accelerator, model=model, optimizer=optimizer, modules=_modules(task),
            clip=settings.optim.clip_grad_norm, count_positives=task.count_positives,
        ),
        loader=TrainLoader(
            TrainData(train_data, transform, settings.train.seed, reduce_jpeg=settings.data.reduce_jpeg),
            workers=settings.data.workers,
            pin_memory=accelerator.device.type == "cuda",
            divisor=task.detector.divisor,
        ),
        log=RunLog(
            accelerator=accelerator, settings=settings, folder=folder, state=state, steps_per_epoch=steps_per_epoch
        ),
        steps_per_epoch=steps_per_epoch,
        fingerprint=data,
        teachers=tuple(digest for _, digest in teachers),
    )  # fmt: skip
    if resume:
        where = f"step {state.progress.step}" if saved is not None else "the beginning, for there is no checkpoint yet"
        run.log.say(f"{notice + '; ' if notice else ''}resuming {folder.path} from {where}")
    if settings.optim.warmup_steps > settings.train.epochs * steps_per_epoch / 2:
        run.log.say(
            f"optim.warmup_steps {settings.optim.warmup_steps} is more than half of the "
            f"{settings.train.epochs * steps_per_epoch} steps of this run: the learning rate stays low"
        )
    return run


def _require_sensible(settings: Settings, train_data: DetectionDataset, val_data: DetectionDataset | None) -> None:
    if not len(train_data):
        raise UserError(f"{train_data.root}: the split '{train_data.split}' has no images to train on")
    if val_data is not None:
        if not len(val_data):
            raise UserError(f"{val_data.root}: the split '{val_data.split}' has no images to evaluate on")
        if val_data.class_names != train_data.class_names:
            raise UserError(
                f"{val_data.root}: the classes of '{val_data.split}' are {', '.join(val_data.class_names)}, those of "
                f"'{train_data.split}' {', '.join(train_data.class_names)}; they must be the same in the same order"
            )
    if settings.train.eval_teacher and settings.task != "mimic":
        raise UserError(f"train.eval_teacher needs a T-head, and task '{settings.task}' has none; leave it out")


def _require_lasting_teachers(settings: Settings, folder: RunFolder, *, overwrite: bool) -> None:
    """UserError where --overwrite would remove a teacher with the old run."""
    for teacher in settings.distill.teachers if settings.task == "distill" else ():
        if overwrite and Path(teacher).resolve().is_relative_to(folder.path.resolve()):
            raise UserError(
                f"distill.teachers: {teacher} is part of the run that --overwrite would replace; choose another --out"
            )


def _batches(accelerator: Accelerator, settings: Settings, train_data: DetectionDataset, epoch: int) -> list[list[int]]:
    return rank_indices(
        len(train_data),
        seed=settings.train.seed,
        epoch=epoch,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        batch_size=settings.train.batch_size,
        accumulate=settings.optim.accumulate,
    )


def _transform(settings: Settings) -> TrainTransform:
    data = settings.data
    return TrainTransform(
        shorter_side=data.shorter_side,
        shorter_side_sampling=data.shorter_side_sampling,
        longer_side=data.longer_side,
        scale_jitter=data.scale_jitter,
        horizontal_flip=data.horizontal_flip,
        vertical_flip=data.vertical_flip,
        quarter_turn=data.quarter_turn,
        color_jitter=data.color_jitter,
    )


def _modules(task: Task) -> dict[str, nn.Module]:
    """The parts of detector and task by name: backbone, pyramid, ..., t_head."""
    modules = dict(task.detector.trunk.named_children())
    modules |= {name: module for name, module in task.detector.named_children() if name != "trunk"}
    return modules | {name: module for name, module in task.named_children() if name != "detector"}
