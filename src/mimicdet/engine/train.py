"""The training loop.

Order and randomness are pure functions of (seed, epoch, index, step, rank), so a run that is resumed from a checkpoint
ends with the very weights of one that never stopped: bit by bit on the CPU, whatever the number of loader workers.
(With three processes or more the first step after resuming may round otherwise, for DDP sums gradients in an order
that it settles in its first step.)
"""

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicdet.config import Settings
from mimicdet.data.dataset import DetectionDataset
from mimicdet.engine.evaluate import draw_run, try_teachers, validate
from mimicdet.engine.processes import accelerated, repeatable, seed_step
from mimicdet.engine.run_folder import RunFolder
from mimicdet.engine.start import Run, start_run
from mimicdet.engine.step import too_many_bad_steps
from mimicdet.engine.stop import StopRequest, TrainingStopped, stop_on_signals


@dataclass(frozen=True)
class TrainResult:
    """Tells what training leaves."""

    run: Path
    """The run folder."""
    model: Path
    """The model to predict with: the best by AP on the validation split, or the last."""
    best: dict[str, Any] | None
    """The record of the last evaluation with the highest AP (see ``run_folder``); None where no AP was defined."""
    last: dict[str, Any] | None
    steps: int
    seconds: float
    """Training time with evaluations, over all parts of a resumed run."""
    unwritten: tuple[str, ...] = ()
    """A sentence for each picture that could not be written; all else was."""


def train(
    *,
    settings: Settings,
    train_data: DetectionDataset,
    val_data: DetectionDataset | None,
    out: Path,
    resume: bool = False,
    overwrite: bool = False,
) -> TrainResult:
    """Trains a detector; under torchrun as one of several processes, all of which call this alike.

    Args:
        val_data: to choose the best weights by; None keeps the last.
        out: the run folder (see ``run_folder``), readable by all machines of the run.
        resume: continue the run in ``out``, exactly as if it had not stopped.
        overwrite: replace the run in ``out``.

    Raises:
        UserError: for whatever the user can mend, such as a run folder in use, a checkpoint of another run, a full
            disk, an image that cannot be read, too little memory, a loss that stays infinite.
        TrainingStopped: after SIGINT or SIGTERM and a checkpoint.
    """
    folder = RunFolder(Path(out))
    with (
        closing(folder),
        accelerated(
            precision=settings.train.precision,
            accumulate=settings.optim.accumulate,
            trackers=settings.train.trackers,
            tracker_folder=folder.trackers,
            broadcast_buffers=not settings.model.freeze_batch_norm,
        ) as accelerator,
        repeatable(accelerator.device),
        stop_on_signals() as stop,
    ):
        run = start_run(accelerator, settings, train_data, val_data, folder, resume=resume, overwrite=overwrite)
        try:
            if run.state.progress.step == 0:
                try_teachers(run)
            _train_epochs(run, stop)
            with stop.at_once():
                unwritten = draw_run(run)
        except TrainingStopped:
            message = f"stopped after step {run.state.progress.step}; the same command with --resume goes on from there"
            run.log.say(message)
            raise TrainingStopped(message) from None
        finally:
            run.log.close()
        done = run.state.progress
        found: Any = {"best": done.best, "last": done.last, "steps": done.step, "seconds": done.seconds}
        return TrainResult(folder.path, folder.model, **found, unwritten=tuple(unwritten))


def _train_epochs(run: Run, stop: StopRequest) -> None:
    settings, state, log, progress = run.settings, run.state, run.log, run.state.progress
    began = time.perf_counter() - progress.seconds
    for epoch in range(progress.epoch, settings.train.epochs):
        state.task.train()
        indices = run.batches(epoch)
        loaded = log.watch.waiting(run.loader.epoch(epoch, indices, start_batch=progress.batch))
        while progress.batch < len(indices):
            batches = [next(loaded) for _ in range(settings.optim.accumulate)]
            ends_epoch = progress.batch + len(batches) == len(indices)
            record_due = (progress.step + 1) % settings.train.log_every == 0 or ends_epoch
            lr = run.lr(progress.step)

            seed_step(settings.train.seed, progress.step, run.accelerator.process_index)
            result = run.step(batches, lr=lr, norms_by_module=record_due, stop=stop.made)
            progress.count(result, batches=len(batches))
            progress.seconds = time.perf_counter() - began
            if result.taken:
                state.learn_from(result)
            elif progress.bad_steps > settings.train.max_bad_steps:
                bad, step, losses = progress.bad_steps, progress.step, result.losses
                raise too_many_bad_steps(run.accelerator, steps=bad, batches=batches, losses=losses, step=step)
            log.stepped()
            if record_due:
                log.train_record(result, lr=lr)
            if result.stop:
                run.save_checkpoint()
                raise TrainingStopped
            if _due(progress.step, settings.train.checkpoint_every) and not ends_epoch:
                run.save_checkpoint()

        evaluated = None
        if epoch + 1 == settings.train.epochs or _due(epoch + 1, settings.train.eval_every):
            run.save_checkpoint()  # so that whatever happens in the evaluation costs no training
            with stop.at_once():
                evaluated = validate(run)
        progress.epoch, progress.batch = epoch + 1, 0
        progress.seconds = time.perf_counter() - began
        run.save_checkpoint()
        log.epoch_ended(evaluated)


def _due(number: int, every: int) -> bool:
    return every > 0 and number % every == 0
