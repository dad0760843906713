"""Training Faster R-CNN alone, with torchvision's losses: divided by each process's own counts."""

from __future__ import annotations

import torch
from torch import Tensor

from mimicdet.data.batch import Batch
from mimicdet.models.faster_rcnn import FasterRcnn
from mimicdet.tasks.task import Task, WholeStep


class FasterRcnnTask(Task):
    """The sum of the losses of both stages, as published.

    Args:
        detector: what ships.
    """

    detector: FasterRcnn

    def forward(self, batch: Batch, whole: WholeStep | None = None) -> dict[str, Tensor]:
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

    def count_positives(self, batch: Batch) -> Tensor:
        """0: torchvision divides by counts of its own."""
        return torch.zeros((), device=batch.images.device)
