"""Pre-trained backbone weights from a file or from timm's hub, checked entry by entry before they are used."""

from __future__ import annotations

from pathlib import Path

import timm
from torch import Tensor, nn

from mimicdet.errors import UserError
from mimicdet.weights.state_dict import read_state


def imagenet_weights(name: str) -> dict[str, Tensor]:
    """Fetches the weights that timm's hub holds for a network.

    Raises:
        UserError: the hub cannot be reached or has none; the sentence says how to give a file.
    """
    way_out = "give a file with --model.weights PATH, or train from scratch with --model.weights random"
    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"model.weights: the ImageNet weights of {name!r} cannot be fetched ({reason}); {way_out}"
        ) from error


def read_weights(file: str | Path, name: str) -> dict[str, Tensor]:
    """Reads a backbone's weights from a file, under timm's names where it is an efficientnet_pytorch one.

    Raises:
        UserError: the file is missing, or is not a plain state dict.
    """
    path = Path(file)
    if not path.is_file():
        raise UserError(f"model.weights: {file} does not exist; give 'imagenet', 'pypi', 'random' or a weights file")
    try:
        state = read_state(path)
    except UserError as error:
        raise UserError(f"model.weights: {error}") from error
    return _from_efficientnet_pytorch(state, name, path) if "_conv_stem.weight" in state else state


def copy_weights(state: dict[str, Tensor], network: nn.Module, *, source: str, backbone: str) -> None:
    """Copies a classifier's weights into a ``features_only`` network; every entry of the network must be found.

    Raises:
        UserError: an entry is missing or has another shape.
    """
    available = {_plain(key): value for key, value in state.items()}
    chosen: dict[str, Tensor] = {}
    for key, current in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            continue
        value = available.get(_plain(key))
        if value is None or value.shape != current.shape:
            what = "is missing" if value is None else f"has shape {tuple(value.shape)}, not {tuple(current.shape)}"
            raise UserError(
                f"model.weights: {source} does not fit the backbone {backbone!r}: entry {key!r} {what}; "
                f"give the weights of that network or name another model.backbone"
            )
        chosen[key] = value
    network.load_state_dict(chosen, strict=False)


def _plain(key: str) -> str:
    """Joins module names with underscores (stages.0 -> stages_0), as timm's feature extractors do."""
    return key.replace(".", "_")


def _from_efficientnet_pytorch(state: dict[str, Tensor], name: str, path: Path) -> dict[str, Tensor]:
    """Renames an efficientnet_pytorch state dict as timm does; both list the same layers in the same order."""
    reference = timm.create_model(name, pretrained=False).state_dict()
    keys = [key for key in reference if not key.endswith("num_batches_tracked")]
    values = [value for key, value in state.items() if not key.endswith("num_batches_tracked")]
    if len(keys) != len(values) or any(reference[k].shape != v.shape for k, v in zip(keys, values, strict=True)):
        raise UserError(
            f"model.weights: {path} holds an efficientnet_pytorch network other than {name!r}; "
            f"name the matching timm network with --model.backbone"
        )
    return dict(zip(keys, values, strict=True))
