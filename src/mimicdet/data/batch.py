"""Pads images of different sizes to one canvas, and their targets to one number: a batch.

B images, H W rows and columns of the canvas, M the largest number of objects of an image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Sample:
    """A sample is one image after its transform, as the loader's workers hand it over."""

    image: Tensor  # (3, h, w) uint8, RGB
    boxes: Tensor  # (M, 4) float32, x1 y1 x2 y2 in pixels of this image
    labels: Tensor  # (M,) int64, 0..K-1
    crowd: Tensor  # (M,) bool
    image_id: int
    file: str
    original_size: tuple[int, int]  # height, width of the upright file
    seed: int  # of everything random about this image in this epoch (see data/order.py)

    @staticmethod
    def without_targets(image: Tensor, image_id: int, file: str, original_size: tuple[int, int]) -> "Sample":
        """Returns a sample that holds an image and no objects, for evaluation and prediction."""
        boxes, labels, crowd = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool)
        return Sample(image, boxes, labels, crowd, image_id, file, original_size, seed=0)


@dataclass(frozen=True)
class Batch:
    """A batch is what a task trains on. Padding is zero on the right and below; ``sizes`` tells image from padding."""

    images: Tensor  # (B, 3, H, W) uint8, RGB
    sizes: Tensor  # (B, 2) int64, height and width of each image inside the canvas
    boxes: Tensor  # (B, M, 4) float32; rows past an image's objects are 0
    labels: Tensor  # (B, M) int64; -1 past an image's objects
    crowd: Tensor  # (B, M) bool
    seeds: Tensor  # (B,) int64, on the CPU: see Sample.seed
    image_ids: tuple[int, ...]
    files: tuple[str, ...]
    original_sizes: tuple[tuple[int, int], ...]

    def to(self, device: torch.device | str) -> "Batch":
        """Returns the batch with its tensors on ``device``; the seeds, which only CPU generators read, stay."""
        return self._moved(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """Returns the batch in pinned memory; the data loader calls this on machines with a GPU."""
        return self._moved(Tensor.pin_memory)

    def _moved(self, move: Callable[[Tensor], Tensor]) -> "Batch":
        boxes, labels, crowd = move(self.boxes), move(self.labels), move(self.crowd)
        return replace(self, images=move(self.images), sizes=move(self.sizes), boxes=boxes, labels=labels, crowd=crowd)


def collate(samples: Sequence[Sample], *, divisor: int = 32) -> Batch:
    """Pads images to the smallest common canvas whose sides are multiples of ``divisor``, and targets to M."""
    if not samples:
        raise ValueError("a batch needs at least one sample")
    height, width = (-(-max(s.image.shape[i] for s in samples) // divisor) * divisor for i in (1, 2))
    images = torch.zeros(len(samples), 3, height, width, dtype=torch.uint8)  # (B, 3, H, W)
    for image, sample in zip(images, samples, strict=True):
        image[:, : sample.image.shape[1], : sample.image.shape[2]] = sample.image
    sizes = torch.tensor([s.image.shape[1:] for s in samples], dtype=torch.int64)  # (B, 2)
    boxes = pad_sequence([s.boxes for s in samples], batch_first=True)  # (B, M, 4)
    labels = pad_sequence([s.labels for s in samples], batch_first=True, padding_value=-1)  # (B, M)
    crowd = pad_sequence([s.crowd for s in samples], batch_first=True)  # (B, M)
    seeds = torch.tensor([s.seed for s in samples], dtype=torch.int64)  # (B,)
    ids, files = tuple(s.image_id for s in samples), tuple(s.file for s in samples)
    return Batch(images, sizes, boxes, labels, crowd, seeds, ids, files, tuple(s.original_size for s in samples))


def pad_to_batch(images: Sequence[Tensor], divisor: int) -> Batch:
    """Puts resized images (3, h, w) uint8 on one canvas whose sides are multiples of ``divisor``."""
    return collate([Sample.without_targets(i, 0, "", (i.shape[1], i.shape[2])) for i in images], divisor=divisor)


def empty_batch(images: Tensor, sizes: Tensor) -> Batch:
    """Returns images (B, 3, H, W) of ``sizes`` (B, 2) as a batch without objects."""
    b, nothing = len(images), torch.zeros(len(images), 0, device=images.device)
    targets = nothing[..., None].expand(b, 0, 4), nothing.long(), nothing.bool()
    return Batch(images, sizes, *targets, torch.zeros(b).long(), tuple(range(b)), ("",) * b, ((0, 0),) * b)
