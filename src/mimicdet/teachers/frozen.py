"""A frozen detector as teacher: outside the task's parameters, run once a batch.

B images, H W the student's padded canvas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimicdet.errors import UserError
from mimicdet.inference.decode import Detections
from mimicdet.inference.detect import detect
from mimicdet.inference.fold import fold_detector
from mimicdet.models.anchors import Places
from mimicdet.models.dense import DenseMaps
from mimicdet.teachers.match_maps import UNKNOWN, TeacherMaps, known_classes, level_shift, match_levels
from mimicdet.teachers.precision import half_precision


class FrozenTeacher:
    """A dense detector that is asked, never trained.

    Not a module on purpose: so it is in no state dict, no optimiser and no process group.

    Args:
        model: a detector with ``dense_maps``.
        classes: for each of the student's classes the teacher's index, or UNKNOWN (``match_classes``).
        scale: side of its input over the student's.
        name: what messages call it.
    """

    def __init__(self, *, model: nn.Module, classes: Sequence[int], scale: float = 1.0, name: str = "teacher") -> None:
        self.network: Any = model.eval().requires_grad_(False)
        self.classes = tuple(classes)
        self.scale = scale
        self.name = name
        self._fast: Any = None

    @property
    def channels(self) -> int:
        """Width of its pyramid."""
        width: int = self.network.pyramid.channels
        return width

    @property
    def level_numbers(self) -> tuple[int, ...]:
        """Of its pyramid, as the student's levels that they are compared with."""
        shift = level_shift(self.scale**2)
        return tuple(number - shift for number in self.network.pyramid.level_numbers)

    def places(self, student: DenseMaps, canvas: tuple[int, int]) -> Places:
        """Its anchors on the student's canvas, for a student with the same levels."""
        places: Places = self.network.anchors([(f.shape[2], f.shape[3]) for f in student.features], canvas)
        return places

    def known(self, device: torch.device) -> Tensor:
        """(K,) bool, the student's classes that it has."""
        return known_classes(self.classes, device)

    def look(self, images: Tensor, sizes: Tensor) -> tuple[DenseMaps, tuple[float, float]]:
        """What it sees on a batch, and by how much its input was larger (height, width).

        In half precision where the device has it; the maps are ordinary tensors without gradient.
        """
        model = self.on(images.device)
        with torch.inference_mode():
            images, sizes, scale = self._resized(images, sizes)
            with half_precision(images.device):
                maps: DenseMaps = model.dense_maps(images, sizes)
        # Tensors of inference mode may not be saved for a backward pass; copies may
        return (
            DenseMaps(tuple(f.clone().float() for f in maps.features), maps.level_numbers, maps.per_cell,
                      maps.logits.clone(), maps.boxes.clone(), maps.valid.clone()),
            scale,
        )  # fmt: skip

    def maps_for(self, student: DenseMaps, seen: tuple[DenseMaps, tuple[float, float]]) -> dict[int, TeacherMaps]:
        """What :meth:`look` gave, level by level in the student's geometry and classes."""
        maps, scale = seen
        return match_levels(maps, student, self.classes, scale=scale)

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """Its own detections, in its own classes."""
        with torch.inference_mode():
            images, sizes, (down, right) = self._resized(images, sizes)
            found = detect(
                self.on(images.device), images, sizes, dense=False, positions=1000, score_threshold=0.005,
                nms_iou=0.6, max_detections=100,
            )  # fmt: skip
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

    def __deepcopy__(self, memo: object) -> FrozenTeacher:
        """Itself: a task's moving average needs no second teacher."""
        return self

    def on(self, device: torch.device) -> Any:
        """The network on a device, batch norm folded."""
        if self._fast is None or next(self.network.parameters()).device != device:
            # Ordinary tensors also when first asked for inside an evaluation: CrossKD's gradient passes through them
            with torch.inference_mode(False), torch.no_grad():
                self.network.to(device).to(memory_format=torch.channels_last)
                self._fast = fold_detector(self.network)
        return self._fast


def match_classes(teacher: Sequence[str], student: Sequence[str], name: str) -> list[int]:
    """For each of the student's classes the teacher's index of the same name, or UNKNOWN.

    Case and spaces around names do not count.

    Raises:
        UserError: the two have no class in common.
    """
    places = {word.strip().casefold(): i for i, word in enumerate(teacher)}
    found = [places.get(word.strip().casefold(), UNKNOWN) for word in student]
    if all(index == UNKNOWN for index in found):
        raise UserError(
            f"{name}: the teacher's classes ({_some(teacher)}) and the data set's ({_some(student)}) have no name in "
            "common; choose a teacher of these classes, or rename the data set's"
        )
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
