"""Asks a dense detector as teacher, once a batch, and brings its maps into the student's geometry and classes.

B images, H W rows and columns of a map or of the student's padded canvas, A positions, K classes of the student,
n anchors a cell of the teacher, C its pyramid's width.
"""

import math
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
from mimicdet.teachers.teacher import NEVER, UNKNOWN, Teacher, half_precision


class TeacherMaps(NamedTuple):
    """Holds one pyramid level of the student as the teacher sees it; no gradients."""

    feature: Tensor  # (B, C, H, W)
    logits: Tensor  # (B, H W, n, K)
    boxes: Tensor  # (B, H W, n, 4) pixels of the student's input


class Seen(NamedTuple):
    """Holds what a teacher sees on a batch."""

    maps: DenseMaps  # ordinary tensors without gradient
    scale: tuple[float, float]  # height and width of its input over the student's


class DenseTeacher(Teacher):
    """A dense teacher is a frozen detector with ``dense_maps``; ``scale``: side of its input over the student's."""

    network: DetectionModel

    def __init__(
        self, *, network: DetectionModel, classes: Sequence[int], scale: float = 1.0, name: str = "teacher"
    ) -> None:
        super().__init__(network=network, classes=classes, name=name)
        self.scale = scale
        self._fast: DetectionModel | None = None

    @property
    def channels(self) -> int:
        """Returns the width of its pyramid."""
        return self.network.trunk.channels

    @property
    def level_numbers(self) -> tuple[int, ...]:
        """Returns its pyramid's levels, by the numbers of the student's levels that they are compared with."""
        shift = level_shift(self.scale**2)
        return tuple(number - shift for number in self.network.trunk.level_numbers)

    def dense_maps(self, images: Tensor, sizes: Tensor) -> Seen:
        """Returns what it predicts everywhere on a batch, in half precision where the device has it."""
        model = self.on(images.device)
        with torch.inference_mode():
            images, sizes, scale = self._resized(images, sizes)
            with half_precision(images.device):
                maps = model.dense_maps(images, sizes)
        # Tensors of inference mode may not be saved for a backward pass; copies may
        features = tuple(f.clone().float() for f in maps.features)
        logits, boxes, valid = (part.clone() for part in (maps.logits, maps.boxes, maps.valid))
        return Seen(maps._replace(features=features, logits=logits, boxes=boxes, valid=valid), scale)

    def maps_for(self, student: DenseMaps, seen: Seen) -> dict[int, TeacherMaps]:
        """Brings what :meth:`dense_maps` gave into the student's geometry and classes, by level number."""
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
        """Returns the network on a device, batch norm folded."""
        if self._fast is None or next(self.network.parameters()).device != device:
            # Ordinary tensors also when first asked for inside an evaluation: CrossKD's gradient passes through them
            with torch.inference_mode(False), torch.no_grad():
                self.network.to(device).to(memory_format=torch.channels_last)
                self._fast = fold_detector(self.network)
        return self._fast


def match_levels(
    teacher: DenseMaps, student: DenseMaps, classes: Sequence[int], *, scale: tuple[float, float] = (1.0, 1.0)
) -> dict[int, TeacherMaps]:
    """Returns the teacher's maps on each level that both have, by the student's level number.

    Args:
        teacher, student: of the same images.
        classes: for each of the student's classes the teacher's index, or UNKNOWN.
        scale: height and width of the teacher's input over the student's. An object that is twice as large there lies
            one level higher, so the teacher's level l meets the student's l - log2(scale), rounded: the one whose
            cells cover the same pixels. Maps of other sizes are resized, bilinearly (boxes: the nearest cell's).
    """
    index = torch.tensor([max(c, 0) for c in classes], device=teacher.logits.device)
    unknown = torch.tensor([c == UNKNOWN for c in classes], device=index.device)
    sizes = {n: f.shape[2:] for n, f in zip(student.level_numbers, student.features, strict=True)}
    back = teacher.boxes.new_tensor([1 / scale[1], 1 / scale[0]]).repeat(2)
    shift = level_shift(scale[0] * scale[1])
    found: dict[int, TeacherMaps] = {}
    for own_number, (feature, logits, boxes) in split_levels(teacher).items():
        if (number := own_number - shift) not in sizes:
            continue
        (h, w), size = feature.shape[2:], sizes[number]
        logits = logits[..., index].masked_fill(unknown, NEVER)
        maps = [_as_map(values, h, w) for values in (logits, boxes * back)]
        if (h, w) != tuple(size):
            feature = F.interpolate(feature.float(), size, mode="bilinear", align_corners=False)
            logits = F.interpolate(maps[0], size, mode="bilinear", align_corners=False)
            maps = [logits, F.interpolate(maps[1], size, mode="nearest-exact")]
        resized = [m.flatten(2).transpose(1, 2).unflatten(2, (teacher.per_cell, -1)) for m in maps]
        found[number] = TeacherMaps(feature, resized[0], resized[1])
    return found


def level_shift(area: float) -> int:
    """Returns by how many levels an object rises whose image grows to ``area`` times its pixels."""
    return round(math.log2(area) / 2)


def split_levels(maps: DenseMaps) -> dict[int, TeacherMaps]:
    """Returns a detector's own maps, level by level."""
    logits, boxes = by_level(maps.logits, maps), by_level(maps.boxes, maps)
    features = zip(maps.level_numbers, maps.features, strict=True)
    return {number: TeacherMaps(feature, logits[number], boxes[number]) for number, feature in features}


def by_level(values: Tensor, maps: DenseMaps) -> dict[int, Tensor]:
    """Splits (B, A, ...) at a detector's positions into (B, cells, n, ...) by level number."""
    cells = [feature.shape[2] * feature.shape[3] for feature in maps.features]
    each = values.unflatten(1, (-1, maps.per_cell)).split(cells, dim=1)
    return dict(zip(maps.level_numbers, each, strict=True))


def _as_map(values: Tensor, h: int, w: int) -> Tensor:
    """(B, H W, n, D) -> (B, n D, H, W), float32."""
    return values.float().reshape(len(values), h, w, -1).permute(0, 3, 1, 2)
