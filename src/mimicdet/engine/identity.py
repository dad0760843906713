"""What a run is, beside its settings: what it trains on, what it is measured by, and the machine that rounds its sums.

A checkpoint keeps it, so that ``--resume`` goes on with the same run, or says what is another now.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from mimicdet.data.dataset import DetectionDataset
from mimicdet.data.pixels import file_marks
from mimicdet.engine.checkpoint import training_data_identity
from mimicdet.errors import UserError


def run_identity(
    train_data: DetectionDataset, val_data: DetectionDataset | None, device: torch.device
) -> dict[str, Any]:
    """Returns plain values and tensors that tell runs apart; of ``data`` also ``require_same_run`` takes note.

    "data" and "validation" are ``training_data_identity`` of both splits, "marks" what ``file_marks`` says of their
    images (N,), "machine" what decides how sums are rounded.
    """
    sets = {"train": train_data, "val": val_data}
    machine: dict[str, Any] = {"device": device.type, "torch": torch.__version__.split("+")[0]}
    machine |= {"threads": torch.get_num_threads()} if device.type == "cpu" else {}
    return {
        "data": training_data_identity(train_data),
        "validation": None if val_data is None else training_data_identity(val_data) | {"split": val_data.split},
        "marks": {name: _marks([r.file for r in one.images] if one else []) for name, one in sets.items()},
        "machine": machine,
    }


def _marks(files: Sequence[Path]) -> torch.Tensor:
    return torch.tensor(file_marks(files), dtype=torch.int64)


def require_same_pixels(state: Mapping[str, Any], now: Mapping[str, Any], data: DetectionDataset, file: Path) -> None:
    """Raises UserError naming the first image of the training set whose file has changed since ``file`` was written.

    ``state`` is that checkpoint's, ``now`` is by ``run_identity``. Both training sets have the same images and objects.
    """
    if changed := (state["marks"]["train"] != now["marks"]["train"]).nonzero().flatten().tolist():
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UserError(
            f"{data.images[changed[0]].file}{more}: the image has changed since {file} was written, so the run would "
            "go on with other pixels; put the old one back to --resume, or start a new run in another folder or with "
            "--overwrite"
        )


def changed_yardstick(state: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Says how the validation split differs from the one that ``state`` was measured by; None where it is the same."""
    before, after = state["validation"], now["validation"]
    if before == after:
        same_pixels = torch.equal(state["marks"]["val"], now["marks"]["val"])
        return None if same_pixels else "images of the validation split have changed"
    if before is None or after is None:
        return f"there is {'no' if after is None else 'a'} validation split now"
    if before["split"] != after["split"]:
        return f"the validation split was '{before['split']}' and is '{after['split']}'"
    return "images, objects or classes of the validation split have changed"


def changed_machine(state: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Says what differs of the machine, so that sums are rounded otherwise; None where nothing does."""
    before, after = state["machine"], now["machine"]
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    told = [f"{name} {before.get(name, '-')}, now {after.get(name, '-')}" for name in names]
    return f"it ran with {' and '.join(told)}: its sums round otherwise from here on" if told else None
