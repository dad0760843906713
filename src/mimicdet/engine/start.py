"""Builds a run from its settings, or continues one from its checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from mimicdet.config import Settings
from mimicdet.data.dataset import DetectionDataset
from mimicdet.data.loader import TrainData, TrainLoader
from mimicdet.data.order import rank_indices
from mimicdet.data.targets import require_targets
from mimicdet.data.transform import TrainTransform
from mimicdet.engine import checkpoint, identity
from mimicdet.engine.log import RunLog
from mimicdet.engine.optim import freeze_by_settings, lr_at, make_optimizer, moving_average
from mimicdet.engine.processes import on_main
from mimicdet.engine.run_folder import RunFolder
from mimicdet.engine.state import IntervalMeans, Progress, RunState
from mimicdet.engine.step import Stepper
from mimicdet.errors import UserError
from mimicdet.files import real_path
from mimicdet.tasks import Task, build_task
from mimicdet.weights.checkpoint_file import load_checkpoint, newest_checkpoint


@dataclass(frozen=True)
class Run:
    """Holds a run that is ready to train: the loop works with it."""

    accelerator: Accelerator
    settings: Settings
    train_data: DetectionDataset
    val_data: DetectionDataset | None
    folder: RunFolder
    state: RunState
    step: Stepper
    loader: TrainLoader
    log: RunLog
    batches: Callable[[int], list[list[int]]]  # of an epoch: the indices of the images of each batch of this process
    steps_per_epoch: int
    identity: dict[str, Any]  # what tells it from other runs (engine/identity.py)

    def lr(self, step: int) -> float:
        """Returns the learning rate of optimiser step ``step``, from 0."""
        train, optim = self.settings.train, self.settings.optim
        images = train.batch_size * self.accelerator.num_processes * optim.accumulate
        return lr_at(step, optim, images_per_step=images, steps_per_epoch=self.steps_per_epoch, epochs=train.epochs)

    def save_checkpoint(self) -> None:
        """Makes the state the last checkpoint, unless it has diverged; every process must call it."""
        state = self.state.state_dict() | self.identity

        def save() -> None:
            self._require_finite(state)
            checkpoint.save_checkpoint(self.folder.checkpoints, state)

        on_main(self.accelerator, save)

    def _require_finite(self, state: Mapping[str, Any]) -> None:
        """Keeps what finds nothing, and never will again, from the checkpoints and from the model that is saved next.

        A step's loss and gradient are finite, and its weights are not, where the learning rate is absurd.
        """
        for key, value in {**state["task"], **(state["average"] or {})}.items():
            if value.is_floating_point() and not value.isfinite().all():
                raise UserError(
                    f"training diverged: after step {self.state.progress.step} the weights {key!r} are infinite or no "
                    "numbers, and are not saved; lower optim.lr, lengthen optim.warmup_steps or set "
                    "optim.clip_grad_norm, and start again"
                )


class _Saved(NamedTuple):
    file: Path
    state: dict[str, Any]


def start_run(
    accelerator: Accelerator,
    settings: Settings,
    train_data: DetectionDataset,
    val_data: DetectionDataset | None,
    folder: RunFolder,
    *,
    resume: bool,
    overwrite: bool,
) -> Run:
    """Starts a new run, or with ``resume`` the one in ``folder``, exactly where its checkpoint was written.

    Raises:
        UserError: the data sets do not go together or with the settings; the folder may not be written to (see
            ``RunFolder.open``); its checkpoints are broken or of another run; backbone weights that cannot be fetched.
    """
    _require_sensible(settings, train_data, val_data)
    sides: Any = {"shorter_side": max(settings.data.shorter_side), "longer_side": settings.data.longer_side}
    too_small = require_targets(train_data, **sides, zoom=settings.data.scale_jitter[1])
    on_main(accelerator, lambda: folder.reserve(resume=resume, overwrite=overwrite))
    _require_lasting_teachers(settings, folder, overwrite=overwrite)
    # Read on the first process alone: it is in every checkpoint, and images may lie far away
    same = on_main(accelerator, lambda: identity.run_identity(train_data, val_data, accelerator.device))
    processes = accelerator.num_processes
    file, notice = None, None
    if resume:
        file, notice = on_main(accelerator, lambda: newest_checkpoint(folder.checkpoints, parts=checkpoint.PARTS))
    saved = None if file is None else _Saved(file, load_checkpoint(file))
    if saved is not None:
        about: dict[str, Any] = {"settings": settings, "data": same["data"], "processes": processes}
        checkpoint.require_same_run(saved.state, **about, file=saved.file)
        identity.require_same_pixels(saved.state, same, train_data, saved.file)
    task, teachers = _build(settings, train_data.class_names, saved)
    state, step = _prepare(accelerator, settings, task, saved)
    changes = [] if saved is None else _changes(saved, same, state.progress, settings)
    # Not before all is built: what cannot start neither replaces a run nor leaves one
    on_main(accelerator, lambda: folder.open(resume=resume, overwrite=overwrite))
    on_main(accelerator, lambda: folder.write_settings(settings))

    rank, size, accumulate = accelerator.process_index, settings.train.batch_size, settings.optim.accumulate

    def batches(epoch: int) -> list[list[int]]:
        share = {"rank": rank, "world_size": processes, "batch_size": size, "accumulate": accumulate}
        return rank_indices(len(train_data), seed=settings.train.seed, epoch=epoch, **share)

    steps = len(batches(0)) // accumulate
    loader = _loader(settings, train_data, accelerator.device, task.detector.divisor)
    log = RunLog(accelerator=accelerator, settings=settings, folder=folder, state=state, steps_per_epoch=steps)
    plain = settings.model_dump(mode="json")
    same |= {"settings": plain, "teachers": teachers, "processes": processes}
    run = Run(accelerator, settings, train_data, val_data, folder, state, step, loader, log, batches, steps, same)
    if resume:
        where = f"step {state.progress.step}" if saved is not None else "the beginning, for there is no checkpoint yet"
        run.log.say(f"{notice + '; ' if notice else ''}resuming {folder.path} from {where}")
        for change in changes:
            run.log.say(change)
        if state.progress.epoch == settings.train.epochs:
            run.log.say(f"all {settings.train.epochs} epochs are trained already: nothing is left to do")
    if too_small is not None:
        run.log.say(too_small)
    if settings.optim.warmup_steps > settings.train.epochs * steps / 2:
        run.log.say(
            f"optim.warmup_steps {settings.optim.warmup_steps} is more than half of the "
            f"{settings.train.epochs * steps} steps of this run: the learning rate stays low"
        )
    return run


def _changes(saved: _Saved, now: Mapping[str, Any], progress: Progress, settings: Settings) -> list[str]:
    """Returns what to say of a run that goes on otherwise; by another yardstick its best AP starts anew."""
    told = []
    if (change := identity.changed_yardstick(saved.state, now)) is not None:
        if progress.epoch == settings.train.epochs:
            raise UserError(
                f"{saved.file.parents[1]} is trained to the end, and {change}; measure it with `mimicdet eval`, or put "
                "back what it was measured by"
            )
        progress.best = progress.last = None
        told = [f"{change}: APs before and after do not compare, so the best AP starts anew"]
    return told + list(filter(None, [identity.changed_machine(saved.state, now)]))


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


def _require_lasting_teachers(settings: Settings, folder: RunFolder, *, overwrite: bool) -> None:
    for teacher in settings.distill.teachers if settings.task == "distill" else ():
        if overwrite and real_path(teacher).is_relative_to(real_path(folder.path)):
            raise UserError(
                f"distill.teachers: {teacher} is part of the run that --overwrite would replace; choose another --out"
            )


def _build(settings: Settings, class_names: Sequence[str], saved: _Saved | None) -> tuple[Task, list[str]]:
    torch.manual_seed(settings.train.seed)
    task = build_task(settings, class_names=class_names, pretrained=saved is None)
    teachers = [(teacher.name, teacher.weights_hash()) for teacher in task.teachers]
    if saved is not None:
        checkpoint.require_same_teachers(saved.state, teachers=teachers, file=saved.file)
    return task, [digest for _, digest in teachers]


def _prepare(
    accelerator: Accelerator, settings: Settings, task: Task, saved: _Saved | None
) -> tuple[RunState, Stepper]:
    # Channels last makes convolutions faster on GPUs with half precision and on CPUs (a step of `small` by a fifth)
    task = task.to(accelerator.device).to(memory_format=torch.channels_last)
    freeze_by_settings(task, settings.optim)
    average = moving_average(task, settings.optim.ema_decay) if settings.optim.ema_decay else None
    model = accelerator.prepare_model(task)
    optimizer = accelerator.prepare_optimizer(make_optimizer(task, settings.optim))
    state = RunState(accelerator, task, optimizer, average, IntervalMeans(accelerator))
    if saved is not None:
        state.load_state_dict(saved.state, saved.file)
        if state.progress.epoch > settings.train.epochs:
            raise UserError(
                f"train.epochs: the run in {saved.file.parents[1]} has done {state.progress.epoch} epochs already, "
                f"more than {settings.train.epochs}"
            )
    clip = settings.optim.clip_grad_norm
    return state, Stepper(accelerator, model, optimizer, _modules(task), clip, task.count_positives)


def _loader(settings: Settings, train_data: DetectionDataset, device: torch.device, divisor: int) -> TrainLoader:
    data = settings.data
    transform = TrainTransform(
        shorter_side=data.shorter_side,
        shorter_side_sampling=data.shorter_side_sampling,
        longer_side=data.longer_side,
        scale_jitter=data.scale_jitter,
        horizontal_flip=data.horizontal_flip,
        vertical_flip=data.vertical_flip,
        quarter_turn=data.quarter_turn,
        color_jitter=data.color_jitter,
    )
    images = TrainData(train_data, transform, settings.train.seed, reduce_jpeg=data.reduce_jpeg)
    return TrainLoader(images, workers=data.workers, pin_memory=device.type == "cuda", divisor=divisor)


def _modules(task: Task) -> dict[str, nn.Module]:
    """The parts of detector and task by name: backbone, pyramid, ..., t_head."""
    modules = dict(task.detector.trunk.named_children())
    modules |= {name: module for name, module in task.detector.named_children() if name != "trunk"}
    return modules | {name: module for name, module in task.named_children() if name != "detector"}
