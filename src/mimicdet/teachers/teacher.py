"""Defines the contract of a frozen teacher: a detector that is asked, never trained. K: the student's classes."""

import hashlib
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from mimicdet.errors import UserError
from mimicdet.inference.decode import Detections

UNKNOWN = -1  # In place of the teacher's class index, for a class that it does not have
NEVER = -30.0  # Logit of such a class


class Teacher:
    """A teacher is a frozen detector.

    Not a module on purpose: so it is in no state dict, no optimiser and no process group.

    Args:
        network: its weights.
        classes: for each of the student's classes the teacher's index, or UNKNOWN (:func:`match_class_names`).
        name: what messages call it.
    """

    def __init__(self, *, network: nn.Module, classes: Sequence[int], name: str = "teacher") -> None:
        self.network = network.eval().requires_grad_(False)
        self.classes = tuple(classes)
        self.name = name

    def known(self, device: torch.device) -> Tensor:
        """Marks the student's classes that it has: (K,) bool."""
        return torch.tensor([c != UNKNOWN for c in self.classes], device=device)

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """Detects in (B, 3, H, W) images of ``sizes`` (B, 2), in its own classes."""
        raise NotImplementedError

    def weights_hash(self) -> str:
        """Returns a SHA-256 (64 hex digits) over name, type, shape and values of every weight.

        A run resumes with these weights alone. The device and the memory format play no part.
        """
        digest = hashlib.sha256()
        for name, tensor in self.network.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    def __deepcopy__(self, memo: object) -> Self:
        """Returns itself: a task's moving average needs no second teacher."""
        return self


def half_precision(device: torch.device) -> torch.autocast:
    """Lets teachers run in bfloat16 on GPUs that compute in it, else in float32, whatever the student trains in."""
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.autocast(device.type, torch.bfloat16 if native else None, enabled=native)


def match_class_names(teacher: Sequence[str], student: Sequence[str], name: str) -> list[int]:
    """Finds for each of the student's classes the teacher's index of the same name, or UNKNOWN.

    Case and spaces around names do not count.

    Raises:
        UserError: the two have no class in common.
    """
    places = {word.strip().casefold(): i for i, word in enumerate(teacher)}
    found = [places.get(word.strip().casefold(), UNKNOWN) for word in student]
    if all(index == UNKNOWN for index in found):
        raise UserError(
            f"{name}: the teacher's classes ({_some(teacher)}) and the data set's ({_some(student)}) have no name in "
            "common; choose a teacher of these classes, or rename the data set's"
        )
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
