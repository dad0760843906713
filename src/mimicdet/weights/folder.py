"""Reads and writes a model on disk: ``model.safetensors`` and ``model.json``, all that prediction needs.

``model.json`` records how the model is built, its classes with the data set's own ids, and how images become
detections; ``model.safetensors`` holds the weights, without a T-head. Nothing in either is executable.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from pydantic import Field
from torch import Tensor, nn

from mimicdet.data.dataset import Category
from mimicdet.errors import UserError, near_path
from mimicdet.files import make_folder, replace_file, require_text, write_json
from mimicdet.streams import require_plain
from mimicdet.weights.description import FORMAT_VERSION, Classes, Part, Values, read_part
from mimicdet.weights.pretrained import require_usable

WEIGHTS_FILE, DESCRIPTION_FILE = "model.safetensors", "model.json"
_CHECKSUM = "sha256"


class ModelDescription(Part):
    """Holds ``model.json``, checked for form; whoever builds the model checks the sections' own settings."""

    family: str
    model: Values
    inference: Values
    categories: Classes
    extra: dict[str, Any] = Field(default_factory=dict)


def save_model(
    folder: str | Path,
    model: nn.Module,
    *,
    model_settings: Mapping[str, Any],
    inference: Mapping[str, Any],
    categories: Sequence[Category],
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model folder, made if need be. A crash leaves the old weights or the new ones, never half of them.

    Args:
        model: its state dict is written, in the precision it has.
        model_settings, inference: plain values of the settings' sections of these names.
        categories: class index -> id and name.
        extra: anything else worth keeping, such as the training step and its AP.

    Raises:
        UserError: the folder cannot be made or written to.
    """
    folder = Path(folder)
    require_text(folder)
    make_folder(folder)
    description = {
        "format_version": FORMAT_VERSION,
        "family": model_settings["family"],
        "model": dict(model_settings),
        "inference": dict(inference),
        "categories": [{"id": c.id, "name": c.name} for c in categories],
        "extra": dict(extra or {}),
    }
    state = {key: value.detach().cpu().contiguous() for key, value in _without_aliases(model).items()}
    # The weights first: a crash between the two leaves a description that still fits, since both only change together
    replace_file(folder / WEIGHTS_FILE, _with_checksum(state))
    write_json(folder / DESCRIPTION_FILE, description)


def read_description(folder: str | Path) -> ModelDescription:
    """Reads the description in a model folder; UserError when it is none, or broken, or of a newer version."""
    folder = Path(folder)
    file = folder / DESCRIPTION_FILE
    require_plain(folder, file, folder / WEIGHTS_FILE)
    if not file.is_file() or not (folder / WEIGHTS_FILE).is_file():
        inner = next((d for d in ("model", "model-last") if (folder / d / DESCRIPTION_FILE).is_file()), None)
        hint = f"; this looks like a run folder, its model is {folder / inner}" if inner else near_path(folder)
        raise UserError(f"{folder} is not a model folder: it needs {DESCRIPTION_FILE} and {WEIGHTS_FILE}{hint}")
    return read_part(file, ModelDescription, way_out="save or download the model again")


def require_fit(folder: str | Path, model: nn.Module) -> None:
    """Raises UserError unless the folder's weights have the entries and shapes of ``model``; reads no weights.

    A model on the meta device will do, so that a description of absurd sizes is found out before it takes memory.
    """
    file = Path(folder) / WEIGHTS_FILE
    with _explained(file), safetensors.safe_open(file, "pt") as opened:
        found = {(key, tuple(opened.get_slice(key).get_shape())) for key in opened.keys()}  # noqa: SIM118  no mapping
    shapes = {(key, tuple(value.shape)) for key, value in _without_aliases(model).items()}
    if wrong := sorted({key for key, _ in shapes ^ found}):
        raise UserError(
            f"{file} does not fit its {DESCRIPTION_FILE}: {len(wrong)} entries differ, the first is {wrong[0]!r}; "
            f"restore the folder as it was saved"
        )


def load_weights(folder: str | Path, model: nn.Module) -> None:
    """Loads the weights into a model built from the folder's description.

    Raises UserError when they are broken, changed since they were written, of other entries, or see ``require_usable``.
    """
    require_fit(folder, model)
    file = Path(folder) / WEIGHTS_FILE
    with _explained(file):
        content = file.read_bytes()
        state = safetensors.torch.load(content)
        changed = _kept_checksum(content) not in (None, _checksum(content))
    if changed:
        raise UserError(f"{file} has changed since it was written: its checksum differs; save or copy the model again")
    require_usable(state, model, file)
    model.load_state_dict(state, strict=False)


def _with_checksum(state: Mapping[str, Tensor]) -> bytes:
    """The file's content; in the file itself the checksum cannot be parted from the weights, as by a crash."""
    plain = safetensors.torch.save(dict(state))
    end = _end_of_header(plain)
    # Not by safetensors, which writes metadata in any order: the same weights are the same bytes
    metadata = {"format": "pt", _CHECKSUM: _checksum(plain)}
    header = json.dumps({"__metadata__": metadata} | json.loads(plain[8:end]), separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    return len(header).to_bytes(8, "little") + header + plain[end:]


def _checksum(content: bytes) -> str:
    """The SHA-256 of all tensors, which follow a header and its length in 8 bytes."""
    return hashlib.sha256(memoryview(content)[_end_of_header(content) :]).hexdigest()


def _end_of_header(content: bytes) -> int:
    return 8 + int.from_bytes(content[:8], "little")


def _kept_checksum(content: bytes) -> str | None:
    return json.loads(content[8 : _end_of_header(content)]).get("__metadata__", {}).get(_CHECKSUM)


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    if file.is_file() and not os.access(file, os.R_OK):  # else told as if it were not there
        raise UserError(f"{file} cannot be read ({os.strerror(errno.EACCES)}); correct its permissions")
    try:
        yield
    except Exception as error:
        raise UserError(f"{file} is broken ({_why(error)}); save or download the model again") from error


def _why(error: Exception) -> str:
    if not isinstance(error, safetensors.SafetensorError):
        return str(getattr(error, "strerror", None) or error)
    cut_off = ("header too small", "invalid header length", "incomplete metadata")
    return "it is cut off" if any(words in str(error) for words in cut_off) else "it is no file of safetensors"


def _without_aliases(model: nn.Module) -> dict[str, Tensor]:
    """Returns the state dict with a tensor that two modules share listed once, under its first name."""
    firsts: dict[int, tuple[str, Tensor]] = {}
    for key, value in model.state_dict(keep_vars=True).items():
        firsts.setdefault(id(value), (key, value))
    return dict(firsts.values())
