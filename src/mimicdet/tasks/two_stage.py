"""Training Faster R-CNN alone, with torchvision's losses: divided by each process's own counts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mimicdet.data.batch import Batch
from mimicdet.models.two_stage import TwoStage


class TwoStageTask(nn.Module):
    """The sum of the losses of both stages, as published.

    Args:
        detector: what ships.
    """

    def __init__(self, *, detector: TwoStage) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """``loss`` and its parts; 0-d tensors. Crowd regions teach nothing, and are background."""
        real = (batch.labels >= 0) & ~batch.crowd
        targets = [
            {"boxes": boxes[own], "labels": labels[own]}
            for boxes, labels, own in zip(batch.boxes, batch.labels, real, strict=True)
        ]
        device = batch.images.device
        # Torchvision draws its samples from the global state, image after image: what is drawn depends on the batch
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(int(batch.seeds[0]))
            losses = self.detector.losses(batch.images, batch.sizes, targets)
        return {"loss": torch.stack(list(losses.values())).sum()} | {k: v.detach() for k, v in losses.items()}
