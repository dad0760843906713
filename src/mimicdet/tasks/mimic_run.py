"""Reads the mimic task of a run, T-head and all, with the weights that the run has reached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from mimicdet.config import Settings
from mimicdet.data.dataset import Category
from mimicdet.errors import UserError
from mimicdet.settings_file import load_settings
from mimicdet.tasks.mimic import MimicTask
from mimicdet.tasks.task import Task
from mimicdet.weights.folder import DESCRIPTION_FILE, read_description

BuildTask = Callable[..., Task]
"""``mimicdet.tasks.build_task``, which reads runs itself, for their T-heads may teach: it is handed on."""


class MimicRun(NamedTuple):
    """Holds what a run has made so far."""

    task: MimicTask  # with its last weights, averaged where the run averages
    settings: Settings
    categories: list[Category]


def read_mimic_run(run: Path, build_task: BuildTask) -> MimicRun:
    """The task in a run folder, which alone has the T-head: what ships has none.

    Raises:
        UserError: the folder holds no run, one of another task, or no checkpoint.
    """
    if not (run / "settings.yaml").is_file():
        raise UserError(
            f"{run} holds no run, which has settings.yaml and checkpoints; give the folder that --out named"
        )
    settings = load_settings(config=run / "settings.yaml")
    if settings.task != "mimic":
        raise UserError(f"{run} is a run of task '{settings.task}', which has no T-head; its model is {run / 'model'}")
    folder = next((run / name for name in ("model-last", "model") if (run / name / DESCRIPTION_FILE).is_file()), None)
    file = run / "checkpoints" / "last.pt"
    if folder is None:
        raise UserError(f"{run} holds no model yet; let the run go on with --resume")
    if not file.is_file():
        raise UserError(
            f"{run} has no checkpoint, where the T-head is; if a study took the run over, name the study's folder in "
            "which it was trained"
        )
    categories = list(read_description(folder).categories)
    task = build_task(settings, class_names=[category.name for category in categories], pretrained=False)
    assert isinstance(task, MimicTask)
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        average = saved["average"]
        averaged = {key.removeprefix("module."): value for key, value in (average or {}).items() if "module." in key}
        task.load_state_dict(averaged or saved["task"])
    except Exception as error:  # whatever a file that is something else provokes
        raise UserError(
            f"{file} is not the checkpoint of {run} ({type(error).__name__}); resume that run once"
        ) from error
    return MimicRun(task, settings, categories)
