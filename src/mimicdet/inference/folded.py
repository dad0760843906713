"""How ``Detector`` runs a PyTorch model: with its batch norm folded into the convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mimicdet.config import InferenceSettings
from mimicdet.data.batch import pad_to_batch
from mimicdet.inference.decode import Detections
from mimicdet.inference.detect import detect
from mimicdet.inference.device import move_to
from mimicdet.inference.fold import fold_detector


class FoldedModel:
    """Runs a dense detector, which stays as it is and may be changed at any time.

    Args:
        model: a dense detector (``mimicdet.models.dense``), in evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._fast: tuple[object, nn.Module] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def to(self, device: torch.device | str) -> None:
        """Moves the model; raises UserError when there is no such device."""
        move_to(self.model, device)

    @torch.inference_mode()
    def detect(self, images: Sequence[Tensor], inference: InferenceSettings) -> list[Detections]:
        """Of each resized image (3, h, w) uint8, in its pixels."""
        batch = pad_to_batch(images, getattr(self.model, "divisor", 32)).to(self.device)
        return detect(
            self.folded(), batch.images, batch.sizes, dense=inference.dense, positions=inference.positions,
            score_threshold=inference.score_threshold, nms_iou=inference.nms_iou,
            max_detections=inference.max_detections, flips=inference.flips,
        )  # fmt: skip

    def folded(self) -> nn.Module:
        """The model with folded batch norm, made anew after its weights have changed or moved."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        state = [(t.data_ptr(), t.device, None if t.is_inference() else t._version) for t in tensors]
        if self._fast is None or self._fast[0] != state:
            self._fast = state, fold_detector(self.model)
        return self._fast[1]
