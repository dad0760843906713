"""A dense detector that knows the answers: tests of what comes before and after a model use it.

Each image of a made-up data set is of one grey, by which the detector tells it and returns its objects exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mimicdet.data.dataset import Category, DetectionDataset, ImageRecord
from mimicdet.models.detector import DetectionModel, Predictions
from tests.fakes.tiny import tiny_trunk

CATEGORIES = (Category(7, "cat"), Category(2, "dog"), Category(91, "newt"))
SHAPES = ((60, 90), (101, 64), (48, 48), (64, 129), (77, 50))


def grey_of(index: int) -> int:
    return 40 * (index + 1)


def make_dataset(folder: Path, shapes: Sequence[tuple[int, int]] = SHAPES, *, seed: int = 0) -> DetectionDataset:
    """Grey images of the given heights and widths with random objects; the first has id 0, the third no object."""
    rng = np.random.default_rng(seed)
    records = []
    for i, (height, width) in enumerate(shapes):
        file = folder / f"image{i}.png"
        Image.fromarray(np.full((height, width, 3), grey_of(i), np.uint8)).save(file)
        n = 0 if i == 2 else 4
        corner = rng.uniform(0, 0.5, (n, 2)) * (width, height)
        side = rng.uniform(0.2, 0.45, (n, 2)) * (width, height)
        boxes = np.concatenate([corner, corner + side], axis=1)
        records.append(
            ImageRecord(
                id=i * 11,
                file=file,
                height=height,
                width=width,
                boxes=boxes,
                labels=rng.integers(0, len(CATEGORIES), n),
                crowd=np.zeros(n, dtype=bool),
                areas=side.prod(1),
            )
        )
    return DetectionDataset(root=folder, split="val", format="coco", categories=CATEGORIES, images=tuple(records))


class FakeDetector(DetectionModel):
    """Returns the objects of ``dataset``, scaled to the image it gets; scores fall from 0.9 by the order of objects."""

    def __init__(self, dataset: DetectionDataset) -> None:
        super().__init__(trunk=tiny_trunk(), num_classes=len(dataset.categories))
        self.dataset = dataset
        self.frozen = nn.BatchNorm2d(1).eval()
        self.batches: list[tuple[int, ...]] = []

    def forward(
        self, images: Tensor, sizes: Tensor | None = None, *, dense: bool = False, top: int | None = 1000
    ) -> Predictions:
        if sizes is None:
            sizes = torch.tensor([images.shape[2:]] * len(images))
        assert torch.is_inference_mode_enabled()
        assert not self.training
        assert top is not None
        assert top >= 4
        self.batches.append(tuple(images.shape))
        b, a, k = len(images), 4, len(self.dataset.categories)
        scores = torch.zeros(b, a, k)
        boxes = torch.zeros(b, a, 4)
        for i in range(b):
            height, width = sizes[i].tolist()
            assert (images[i, :, height:] == 0).all()
            assert (images[i, :, :, width:] == 0).all()
            record = self.dataset.images[round(int(images[i, 0, 0, 0]) / 40) - 1]
            scale = np.array([width / record.width, height / record.height] * 2)
            boxes[i, : len(record.boxes)] = torch.from_numpy(record.boxes * scale).float()
            for j, label in enumerate(record.labels.tolist()):
                scores[i, j, label] = 0.9 - 0.1 * j
        positions = torch.arange(a).expand(b, a)
        return Predictions(positions, scores, boxes)
