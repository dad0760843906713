"""Counts over all processes and all batches of a step, for losses that are sums over boxes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class WholeStep(NamedTuple):
    """Of all the batches whose gradients make up one step of this process (``optim.accumulate``)."""

    positives: Tensor  # 0-d float, positive anchors of all of them together
    batches: int


@torch.no_grad()
def divisors(shares: Sequence[Tensor | None], positives: Tensor, whole: WholeStep | None) -> Tensor:
    """What loss sums of one batch are divided by, so that the step's mean gradient is that of one large batch.

    Positive anchors are known before a step begins, and are very unequal from batch to batch: they are counted over the
    whole step. The other counts hang on what the network says of this batch, or are the same for every image.

    Args:
        shares: 0-d counts of this batch, each loss's; None: its positive anchors.
        positives: 0-d, of this batch, which is the step where ``whole`` is None.

    Returns:
        (N,) float.
    """
    batches = 1 if whole is None else whole.batches
    of_step = positives if whole is None else whole.positives
    counts = torch.stack([of_step.float() if share is None else share.float() * batches for share in shares])
    return mean_over_processes(counts, batches=batches)


@torch.no_grad()
def mean_over_processes(counts: Tensor, *, batches: int = 1) -> Tensor:
    """The average of each count over all processes and batches, at least 1 over all of them together.

    A loss sum divided by this, with gradients averaged over processes as DDP does, is the sum over all boxes of all
    processes divided by their number: the same gradient as one process with the whole batch.

    Args:
        counts: (N,) float, of so many ``batches`` together; one collective call for all.
    """
    world = 1
    if dist.is_available() and dist.is_initialized():
        world = dist.get_world_size()
        counts = counts.clone()
        dist.all_reduce(counts)
    return counts.clamp(min=1) / (world * batches)
