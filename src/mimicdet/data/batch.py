"""A batch of differently sized images, padded to one canvas, with padded targets.

B images, H W rows and columns of the canvas, M the largest number of objects of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One image after its transform, as the loader's workers hand it over."""

    image: Tensor  # (3, h, w) uint8, RGB
    boxes: Tensor  # (M, 4) float32, x1 y1 x2 y2 in pixels of this image
    labels: Tensor  # (M,) int64, 0..K-1
    crowd: Tensor  # (M,) bool
    image_id: int
    file: str
    original_size: tuple[int, int]  # height, width of the upright file
    seed: int  # of everything random about this image in this epoch (see data/order.py)


@dataclass(frozen=True)
class Batch:
    """What a task trains on. Padding is zero on the right and below; ``sizes`` tells image from padding."""

    images: Tensor  # (B, 3, H, W) uint8, RGB
    sizes: Tensor  # (B, 2) int64, height and width of each image inside the canvas
    boxes: Tensor  # (B, M, 4) float32; rows past an image's objects are 0
    labels: Tensor  # (B, M) int64; -1 past an image's objects
    crowd: Tensor  # (B, M) bool
    seeds: Tensor  # (B,) int64, on the CPU: see Sample.seed
    image_ids: tuple[int, ...]
    files: tuple[str, ...]
    original_sizes: tuple[tuple[int, int], ...]

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its tensors on ``device`` (all but the seeds, which only CPU generators read)."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=True)

        return Batch(
            images=move(self.images), sizes=move(self.sizes), boxes=move(self.boxes), labels=move(self.labels),
            crowd=move(self.crowd), seeds=self.seeds, image_ids=self.image_ids, files=self.files,
            original_sizes=self.original_sizes,
        )  # fmt: skip

    def pin_memory(self) -> Batch:
        """The batch in pinned memory; called by the data loader on machines with a GPU."""
        return Batch(
            images=self.images.pin_memory(), sizes=self.sizes.pin_memory(), boxes=self.boxes.pin_memory(),
            labels=self.labels.pin_memory(), crowd=self.crowd.pin_memory(), seeds=self.seeds,
            image_ids=self.image_ids, files=self.files, original_sizes=self.original_sizes,
        )  # fmt: skip


def collate(samples: Sequence[Sample], *, divisor: int = 32) -> Batch:
    """Pads images to the smallest common canvas whose sides are multiples of ``divisor``, and targets to M."""
    if not samples:
        raise ValueError("a batch needs at least one sample")
    height = -(-max(s.image.shape[1] for s in samples) // divisor) * divisor
    width = -(-max(s.image.shape[2] for s in samples) // divisor) * divisor
    most = max(len(s.labels) for s in samples)
    images = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)
    boxes = torch.zeros(len(samples), most, 4)
    labels = torch.full((len(samples), most), -1, dtype=torch.int64)
    crowd = torch.zeros(len(samples), most, dtype=torch.bool)
    for i, sample in enumerate(samples):
        _, h, w = sample.image.shape
        m = len(sample.labels)
        images[i, :, :h, :w] = sample.image
        boxes[i, :m] = sample.boxes
        labels[i, :m] = sample.labels
        crowd[i, :m] = sample.crowd
    return Batch(
        images=images,
        sizes=torch.tensor([s.image.shape[1:] for s in samples], dtype=torch.int64),
        boxes=boxes,
        labels=labels,
        crowd=crowd,
        seeds=torch.tensor([s.seed for s in samples], dtype=torch.int64),
        image_ids=tuple(s.image_id for s in samples),
        files=tuple(s.file for s in samples),
        original_sizes=tuple(s.original_size for s in samples),
    )


def pad_to_batch(images: Sequence[Tensor], divisor: int) -> Batch:
    """Resized images (3, h, w) uint8 on one canvas whose sides are multiples of ``divisor``."""
    return collate([_sample_without_targets(image) for image in images], divisor=divisor)


def _sample_without_targets(image: Tensor) -> Sample:
    """An image without targets, for ``collate``."""
    return Sample(
        image=image,
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        crowd=torch.zeros(0, dtype=torch.bool),
        image_id=0,
        file="",
        original_size=(image.shape[1], image.shape[2]),
        seed=0,
    )


def empty_batch(images: Tensor, sizes: Tensor) -> Batch:
    """Images (B, 3, H, W) of ``sizes`` (B, 2) as a batch without objects."""
    b, nothing = len(images), torch.zeros(len(images), 0, device=images.device)
    return Batch(
        images=images,
        sizes=sizes,
        boxes=nothing[..., None].expand(b, 0, 4),
        labels=nothing.long(),
        crowd=nothing.bool(),
        seeds=torch.zeros(b, dtype=torch.int64),
        image_ids=tuple(range(b)),
        files=("",) * b,
        original_sizes=((0, 0),) * b,
    )
