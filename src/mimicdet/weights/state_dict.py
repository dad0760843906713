"""State dicts in files of torch and of safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from mimicdet.errors import UserError

SUFFIXES = (".pth", ".pt", ".safetensors")


def read_state(file: Path) -> dict[str, Tensor]:
    """Reads weights by name, without running any code in the file (safetensors, or torch.load with ``weights_only``).

    They may lie under the name that training scripts give a model beside other things; the prefix that
    ``DataParallel`` puts before every name is cut off.

    Raises:
        UserError: the file cannot be read, or holds anything else.
    """
    state: Any
    try:
        if file.suffix == ".safetensors":
            state = safetensors.torch.load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{file} cannot be read as weights ({type(error).__name__}); download it again, or give a .safetensors "
            "file or a .pth file that holds nothing but tensors"
        ) from error
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{file} holds no weights by name; save them alone: torch.save(model.state_dict(), file)")
    return {key.removeprefix("module."): value for key, value in state.items()}
