"""Defines the contract of a task: a batch in, losses out. B images, A positions of the detector.

Teachers and assistants live here, never in the detector.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mimicdet.data.batch import Batch
from mimicdet.inference.dataset import FunctionRunner
from mimicdet.models.detector import DenseMaps, DetectionModel
from mimicdet.teachers.teacher import Teacher


class WholeStep(NamedTuple):
    """Sums up all the batches whose gradients make up one step of this process (``optim.accumulate``)."""

    positives: Tensor  # 0-d float, positive anchors of all of them together
    batches: int


class TaskStep(NamedTuple):
    """Holds a detector's own losses on a batch, and what distillation reads."""

    losses: dict[str, Tensor]  # as ``Task.forward`` gives them
    match: Callable[[], Tensor]  # (B, A) int64, index of the object that each position is assigned; below 0: none
    maps: Callable[[], DenseMaps]  # computed when asked for, as ``match`` is: MimicDet's are dense only then


class StudentView(NamedTuple):
    """Holds what a teacher's lesson reads of the student on a batch."""

    detector: DetectionModel
    batch: Batch
    match: Callable[[], Tensor]  # see ``TaskStep``
    maps: DenseMaps


class Task(nn.Module):
    """Trains a detector, which is what ships."""

    teachers: Sequence[Teacher] = ()  # Frozen ones; they are in no state dict

    def __init__(self, *, detector: DetectionModel) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, batch: Batch, whole: WholeStep | None = None) -> dict[str, Tensor]:
        """Returns ``loss`` (weighted sum), its parts unweighted, and diagnostics under ``diag/``; 0-d tensors.

        ``whole`` sums up the step that the batch is a part of; None: the batch is the step.
        """
        return self.step(batch, whole).losses

    def step(self, batch: Batch, whole: WholeStep | None = None) -> TaskStep:
        """Returns the losses of :meth:`forward`, and what distillation reads."""
        raise NotImplementedError

    def t_head_runner(self, device: torch.device) -> FunctionRunner | None:
        """Returns what runs the T-head over a data set on ``device``; None for a task without one."""
        return None

    def count_positives(self, batch: Batch) -> Tensor:
        """Returns the number of positive anchors of a batch on the task's device, 0-d float, for ``WholeStep``."""
        raise NotImplementedError


@torch.no_grad()
def divisors(shares: Sequence[Tensor | None], positives: Tensor, whole: WholeStep | None) -> Tensor:
    """Returns what loss sums of one batch are divided by, so that a step's gradient is that of one large batch: (N,).

    Positive anchors are known before a step begins, and are very unequal from batch to batch: they are counted over the
    whole step. The others depend on what the network says of this batch, or are the same for every image.

    Args:
        shares: 0-d counts of this batch, each loss's; None: its positive anchors.
        positives: 0-d, of this batch, which is the step where ``whole`` is None.
    """
    batches = 1 if whole is None else whole.batches
    of_step = positives if whole is None else whole.positives
    counts = torch.stack([of_step.float() if share is None else share.float() * batches for share in shares])
    return mean_over_processes(counts, batches=batches)


@torch.no_grad()
def mean_over_processes(counts: Tensor, *, batches: int = 1) -> Tensor:
    """Averages each count over all processes and batches; at least 1 over all of them together.

    A loss sum divided by this, with gradients averaged over processes as DDP does, is the sum over all boxes of all
    processes divided by their number: the same gradient as one process with the whole batch.

    ``counts`` are (N,) float, of so many ``batches`` together; one collective call for all.
    """
    world = 1
    if dist.is_available() and dist.is_initialized():
        world = dist.get_world_size()
        counts = counts.clone()
        dist.all_reduce(counts)
    return counts.clamp(min=1) / (world * batches)
