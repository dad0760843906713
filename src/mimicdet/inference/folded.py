"""Runs a PyTorch detector with its batch norm folded into the convolutions, wherever detections are made."""

from __future__ import annotations

import torch
from torch import nn

from mimicdet.config import InferenceSettings
from mimicdet.data.batch import Batch
from mimicdet.errors import UserError
from mimicdet.inference.decode import Detections
from mimicdet.inference.detect import detect
from mimicdet.inference.fold import fold_detector
from mimicdet.models.detector import DetectionModel


class FoldedModel:
    """Runs a detector, which stays as it is and may be changed at any time.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: DetectionModel) -> None:
        self.model = model
        self._fast: tuple[object, DetectionModel] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def divisor(self) -> int:
        return self.model.divisor

    def to(self, device: torch.device | str) -> None:
        """Moves the model; raises UserError when there is no such device."""
        move_to(self.model, device)

    @torch.inference_mode()
    def detect(self, batch: Batch, inference: InferenceSettings) -> list[Detections]:
        """The detections of each image of a batch, in pixels of the resized image."""
        batch = batch.to(self.device)
        return detect(self.folded(), batch.images, batch.sizes, inference)

    def folded(self) -> DetectionModel:
        """The model with folded batch norm, made anew after its weights have changed or moved."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        state = [(t.data_ptr(), t.device, None if t.is_inference() else t._version) for t in tensors]
        kept = self._fast  # read once: another thread may exchange it
        if kept is None or kept[0] != state:
            kept = self._fast = state, fold_detector(self.model)
        return kept[1]


def move_to(model: nn.Module, device: torch.device | str | None) -> torch.device:
    """Moves a model to a device such as ``cpu`` or ``cuda:1``; None is the first CUDA GPU, else the CPU.

    Raises:
        UserError: there is no such device.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:  # a misspelt name, no GPU, or torch built without CUDA
        reason = str(error).splitlines()[0].rstrip(".")
        raise UserError(f"device {str(device)!r} cannot be used ({reason}); choose cpu, cuda or cuda:0") from error
    return torch.device(device)
