"""Gives the order of images and the seed of each, as pure functions of (seed, epoch, index, rank).

No order and no seed here depends on a global random state, on the number of loader workers or on what ran
before, so a resumed run continues exactly where the interrupted one would have gone, in mid-epoch too.
"""

import hashlib

import torch
from torch import Tensor


def _mix(purpose: str, *numbers: int) -> int:
    """Returns 63 well-mixed bits; neighbouring numbers and equal numbers for another purpose give unrelated bits.

    A real hash, because sums and products such as ``seed + epoch`` make run 0's epoch 1 repeat run 1's epoch 0.
    """
    text = ",".join([purpose, *map(str, numbers)]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def image_seed(seed: int, epoch: int, index: int) -> int:
    """Returns the seed (63 bits) of the augmentation of image ``index`` in ``epoch``."""
    return _mix("image", seed, epoch, index)


def sampling_seed(image_seed: int) -> int:
    """Returns the seed (63 bits) of all that is drawn for the image after its augmentation."""
    return _mix("sampling", image_seed)


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """Returns the order of ``n`` images in ``epoch``: (n,) int64, a permutation of ``0..n-1``."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(_mix("order", seed, epoch)))


def rank_indices(
    n: int, *, seed: int, epoch: int, rank: int, world_size: int, batch_size: int, accumulate: int
) -> list[list[int]]:
    """Returns the batches of image indices that process ``rank`` of ``world_size`` trains on in ``epoch``.

    The images of one optimiser step are ``world_size * accumulate`` batches of ``batch_size``. The epoch's order
    is cut into such steps; the last one is filled by starting the order again from its beginning. Hence

    - every rank gets equally many batches, a multiple of ``accumulate``, all of them full;
    - every image is seen at least once, and no image more than once more often than another;
    - batch ``t`` of all ranks together holds the same images in the same order for every way of splitting
      ``world_size * batch_size``, and so does an optimiser step for every way of splitting
      ``world_size * batch_size * accumulate``.

    ValueError: a number makes no sense (``n`` or another count below 1, no such rank).
    """
    if min(n, world_size, batch_size, accumulate) < 1 or not 0 <= rank < world_size:
        raise ValueError(f"{n} images, rank {rank} of {world_size}, batches of {batch_size}, {accumulate} to a step")
    together = world_size * batch_size
    batches = -(-n // (together * accumulate)) * accumulate
    order = epoch_order(n, seed, epoch).repeat(-(-batches * together // n))[: batches * together]
    return order.view(batches, world_size, batch_size)[:, rank].tolist()
