"""Counts over all processes, for losses that are sums over boxes."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def mean_over_processes(counts: Tensor) -> Tensor:
    """The average of each count over all processes, at least 1 over all of them together.

    A loss sum divided by this, with gradients averaged over processes as DDP does, is the sum over all boxes of all
    processes divided by their number: the same gradient as one process with the whole batch.

    Args:
        counts: (N,) float; one collective call for all.
    """
    world = 1
    if dist.is_available() and dist.is_initialized():
        world = dist.get_world_size()
        counts = counts.clone()
        dist.all_reduce(counts)
    return counts.clamp(min=1) / world
