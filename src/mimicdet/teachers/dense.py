"""A dense detector as teacher, run once a batch.

B images, H W the student's padded canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mimicdet.config import InferenceSettings
from mimicdet.inference.decode import Detections
from mimicdet.inference.detect import detect
from mimicdet.inference.fold import fold_detector
from mimicdet.models.detector import DenseMaps, DetectionModel
from mimicdet.teachers.match_maps import TeacherMaps, level_shift, match_levels
from mimicdet.teachers.teacher import Teacher, half_precision


class Seen(NamedTuple):
    """Holds what a teacher sees on a batch."""

    maps: DenseMaps  # ordinary tensors without gradient
    scale: tuple[float, float]  # height and width of its input over the student's


class DenseTeacher(Teacher):
    """A frozen dense detector.

    Args:
        network: with ``dense_maps``.
        scale: side of its input over the student's.
    """

    network: DetectionModel

    def __init__(
        self, *, network: DetectionModel, classes: Sequence[int], scale: float = 1.0, name: str = "teacher"
    ) -> None:
        super().__init__(network=network, classes=classes, name=name)
        self.scale = scale
        self._fast: DetectionModel | None = None

    @property
    def channels(self) -> int:
        """Width of its pyramid."""
        return self.network.trunk.channels

    @property
    def level_numbers(self) -> tuple[int, ...]:
        """Of its pyramid, as the student's levels that they are compared with."""
        shift = level_shift(self.scale**2)
        return tuple(number - shift for number in self.network.trunk.level_numbers)

    def dense_maps(self, images: Tensor, sizes: Tensor) -> Seen:
        """What it predicts everywhere on a batch, in half precision where the device has it."""
        model = self.on(images.device)
        with torch.inference_mode():
            images, sizes, scale = self._resized(images, sizes)
            with half_precision(images.device):
                maps = model.dense_maps(images, sizes)
        # Tensors of inference mode may not be saved for a backward pass; copies may
        copied = DenseMaps(
            features=tuple(f.clone().float() for f in maps.features),
            level_numbers=maps.level_numbers,
            per_cell=maps.per_cell,
            logits=maps.logits.clone(),
            boxes=maps.boxes.clone(),
            valid=maps.valid.clone(),
        )
        return Seen(copied, scale)

    def maps_for(self, student: DenseMaps, seen: Seen) -> dict[int, TeacherMaps]:
        """What :meth:`dense_maps` gave, level by level in the student's geometry and classes."""
        return match_levels(seen.maps, student, self.classes, scale=seen.scale)

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """See ``Teacher.detect``; with the default settings, whatever it was shipped with."""
        with torch.inference_mode():
            images, sizes, (down, right) = self._resized(images, sizes)
            found = detect(self.on(images.device), images, sizes, InferenceSettings())
            return [d._replace(boxes=d.boxes / d.boxes.new_tensor([right, down, right, down])) for d in found]

    def _resized(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, tuple[float, float]]:
        """Images and sizes as it sees them, and by how much they grew (height, width)."""
        if self.scale == 1:
            return images, sizes, (1.0, 1.0)
        (height, width), divisor = images.shape[2:], self.network.divisor
        h, w = (max(round(side * self.scale / divisor), 1) * divisor for side in (height, width))
        pixels = images.float() / (255 if images.dtype == torch.uint8 else 1)
        ratio = sizes.new_tensor([h, w], dtype=torch.float64) / sizes.new_tensor([height, width])
        resized = F.interpolate(pixels, (h, w), mode="bilinear", antialias=True)
        return resized, (sizes * ratio).ceil().long(), (h / height, w / width)

    def on(self, device: torch.device) -> DetectionModel:
        """The network on a device, batch norm folded."""
        if self._fast is None or next(self.network.parameters()).device != device:
            # Ordinary tensors also when first asked for inside an evaluation: CrossKD's gradient passes through them
            with torch.inference_mode(False), torch.no_grad():
                self.network.to(device).to(memory_format=torch.channels_last)
                self._fast = fold_detector(self.network)
        return self._fast
