"""The state of training on disk: checkpoints/last.pt, and previous.pt, the one before.

Order and randomness are functions of (seed, epoch, index, step, rank), so a checkpoint is weights, optimiser,
average, gradient scaler and counters, and resuming from it is exact. It is written beside the old ones and then
renamed, so that a crash at any moment leaves one that is whole (see ``mimicdet.weights.checkpoint_file``).
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from mimicdet.config import Settings, settings_from
from mimicdet.data.dataset import DetectionDataset
from mimicdet.errors import UserError
from mimicdet.files import set_aside, why_not_written
from mimicdet.weights.checkpoint_file import FORMAT, LAST, PREVIOUS, seal

PARTS = ("settings", "data", "task", "optimizer", "means", "progress")
"""What every checkpoint of a run has, each with values by name."""

_NO_MATTER = {
    "data": ("workers", "max_faulty_boxes"),
    "inference": ("batch_size",),
    "train": ("eval_every", "eval_teacher", "checkpoint_every", "log_every", "max_bad_steps", "pictures", "trackers"),
    "distill": ("trust_teacher", "check_images"),
}
MAY_CHANGE = frozenset(f"{section}.{key}" for section, keys in _NO_MATTER.items() for key in keys)
"""Settings that a resumed run may change, for they alter no weight and no comparison of APs. ``train.epochs`` may
change too unless the schedule is cosine, whose every learning rate depends on it."""


def save_checkpoint(folder: Path, state: Mapping[str, Any]) -> None:
    """Makes ``state``, of tensors, numbers, text, None and containers, the last checkpoint and the last the previous.

    Raises:
        UserError: the disk is full or the folder not writable; the old checkpoints are as they were.
    """
    try:
        with set_aside(folder) as part:
            with part.open("x+b") as file:
                torch.save({"format": FORMAT, **state}, file)
                seal(file)
                file.flush()
                os.fsync(file.fileno())
            if (folder / LAST).exists():
                os.replace(folder / LAST, folder / PREVIOUS)
            os.replace(part, folder / LAST)
    except (OSError, RuntimeError) as error:  # torch's zip writer buries the first in the second
        cause = _os_error(error)
        if cause is None:
            raise
        rest = "the previous checkpoint is intact" if (folder / LAST).exists() else "there is no earlier one"
        raise UserError(
            f"{folder / LAST} cannot be written: {why_not_written(cause)} ({rest}); "
            "free some space and continue with --resume"
        ) from error


def _os_error(error: BaseException | None) -> OSError | None:
    while error is not None and not isinstance(error, OSError):
        error = error.__cause__ or error.__context__
    return error


def training_data_identity(dataset: DetectionDataset) -> dict[str, Any]:
    """Returns classes, number of images, and a hash over images and objects: they tell training sets apart."""
    digest = hashlib.sha256()
    for record in dataset.images:
        about = f"{record.file.name} {record.height} {record.width} {len(record.labels)}\n"
        digest.update(about.encode(errors="surrogatepass"))  # a name need not be UTF-8
        for array in (record.boxes, record.labels, record.crowd):
            digest.update(array.tobytes())
    return {"classes": list(dataset.class_names), "images": len(dataset), "hash": digest.hexdigest()}


def require_same_run(
    state: Mapping[str, Any], *, settings: Settings, data: Mapping[str, Any], processes: int, file: Path
) -> None:
    """Raises UserError naming what differs, unless going on from ``state`` continues the very same run.

    Args:
        state: of ``load_checkpoint``; its "settings" (plain values), "data" and "processes" are compared.
        settings, data, processes: of the run that wants to continue; ``data`` by ``training_data_identity``.
    """
    for key in ("settings", "data"):
        if not isinstance(state.get(key), dict):
            raise UserError(f"{file} is no checkpoint of a run, which has its {key}; start again with --overwrite")
    try:
        saved = settings_from(state["settings"])
    except (ValidationError, KeyError, TypeError, AttributeError) as error:  # the last three: an unknown family
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else f"{type(error).__name__}: {error}"
        raise UserError(
            f"{file} has settings of another version of mimicdet ({why}); start again with --overwrite"
        ) from None
    may_change = MAY_CHANGE if settings.optim.schedule == "cosine" else MAY_CHANGE | {"train.epochs"}
    found = differing_settings(saved, settings)
    differences = [difference for name, difference in found.items() if name not in may_change]
    for what in ("classes", "images"):
        if (before := state["data"].get(what)) != data[what]:
            differences.append(f"the training set's {what} were {before} and are {data[what]}")
    if not differences and state["data"] != data:
        differences.append("the training set's objects have changed")
    if state.get("processes") != processes:
        differences.append(f"it ran on {state.get('processes')} process(es) and would go on with {processes}")
    if differences:
        raise UserError(
            f"{file} is of another run: {'; '.join(differences)}. Undo that to --resume, or start a new run in another "
            "folder or with --overwrite"
        )


def require_same_teachers(state: Mapping[str, Any], *, teachers: Sequence[tuple[str, str]], file: Path) -> None:
    """Raises UserError naming the teacher whose weights are no longer those that ``state`` was trained with.

    ``teachers`` are (name, hash by ``weights_hash``) of each now; "teachers" of ``state`` the hashes, in order.
    """
    saved = state.get("teachers")
    if not isinstance(saved, list) or len(saved) != len(teachers):
        raise UserError(f"{file} is no checkpoint of a run with {len(teachers)} teachers; start again with --overwrite")
    for (name, now), before in zip(teachers, saved, strict=True):
        if now != before:
            raise UserError(
                f"{file} was trained with other weights of the teacher {name}, which has changed since; put the old "
                "ones back to --resume, or start a new run in another folder or with --overwrite"
            )


def differing_settings(before: Settings, now: Settings) -> dict[str, str]:
    """Maps each setting that differs, by its dotted name, to such as ``train.epochs was 1 and is 2``."""
    old, new = (dotted(settings) for settings in (before, now))
    return {
        name: f"{name} was {json.dumps(old[name])} and is {json.dumps(value)}"
        for name, value in new.items()
        if name in old and old[name] != value  # families have their own
    }


def dotted(settings: Settings) -> dict[str, Any]:
    """Maps the dotted name of every setting to its plain value."""
    flat: dict[str, Any] = {}
    for section, values in settings.model_dump(mode="json").items():
        flat |= {f"{section}.{key}": v for key, v in values.items()} if isinstance(values, dict) else {section: values}
    return flat
