"""Two-stage teachers: they look at the student's own boxes, each pooled from features of theirs.

N boxes of a batch, K classes of the student, D width of a box's feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mimicdet.inference.decode import Detections
from mimicdet.models.dense import log_odds
from mimicdet.models.second_stage import second_stage_at
from mimicdet.teachers.match_maps import NEVER, known_classes
from mimicdet.teachers.precision import half_precision


class RoiView(NamedTuple):
    """What a teacher says of boxes; ordinary tensors without gradient."""

    logits: Tensor  # (N, K) log-odds of each class's score
    boxes: Tensor  # (N, 4) moved by the teacher
    features: Tensor  # (N, D) what the scores are computed from


class RoiHead(Protocol):
    """A two-stage detector as teacher; what it returns may be of inference mode."""

    num_features: int

    @property
    def network(self) -> nn.Module: ...

    def to(self, device: torch.device) -> None: ...

    def look(self, images: Tensor, sizes: Tensor, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, 1 + teacher's classes) with the background first, boxes (N, 1 or classes, 4), features (N, D).

        Args:
            images, sizes: (B, 3, H, W), (B, 2).
            boxes: (N, 4) in pixels of the canvas, with an area.
            image: (N,) int64.
        """
        ...

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """Its own detections, labels from 0."""
        ...


class RoiTeacher:
    """A frozen two-stage detector; not a module, for the reasons of ``mimicdet.teachers.frozen.FrozenTeacher``.

    Args:
        head: the detector.
        classes: for each of the student's classes the teacher's index (from 0, without the background), or UNKNOWN.
        name: what messages call it.
    """

    scale = 1.0

    def __init__(self, *, head: RoiHead, classes: Sequence[int], name: str = "teacher") -> None:
        self.head = head
        self.classes = tuple(classes)
        self.name = name

    @property
    def num_features(self) -> int:
        return self.head.num_features

    @property
    def network(self) -> nn.Module:
        return self.head.network

    def known(self, device: torch.device) -> Tensor:
        """(K,) bool, the student's classes that it has."""
        return known_classes(self.classes, device)

    def look(self, images: Tensor, sizes: Tensor, boxes: Tensor, image: Tensor, label: Tensor) -> RoiView:
        """Arguments as for ``RoiHead.look``; ``label`` (N,): the student's class that a box is moved for."""
        self.head.to(images.device)
        # Pooling needs an area; a box without one is looked at as a pixel
        boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)], dim=1)
        with torch.inference_mode(), half_precision(images.device):
            logits, moved, features = self.head.look(images, sizes, boxes, image)
        # Copies: tensors of inference mode may not be saved for a backward pass
        logits, moved, features = (t.clone().float() for t in (logits, moved, features))
        index = torch.tensor([max(c, 0) for c in self.classes], device=logits.device)
        unknown = ~self.known(logits.device)
        odds = log_odds(logits.log_softmax(-1)[:, 1:])
        which = index[label] if moved.shape[1] > 1 else torch.zeros_like(label)
        return RoiView(
            logits=odds[:, index].masked_fill(unknown, NEVER),
            boxes=moved[torch.arange(len(moved), device=moved.device), which],
            features=features,
        )

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """Its own detections, in its own classes."""
        with torch.inference_mode(False):
            self.head.to(images.device)
        with torch.inference_mode():
            return self.head.detect(images, sizes)

    def __deepcopy__(self, memo: object) -> RoiTeacher:
        """Itself: a task's moving average needs no second teacher."""
        return self


class FasterRcnn:
    """Torchvision's Faster R-CNN.

    Args:
        model: torchvision's.
    """

    def __init__(self, *, model: Any) -> None:
        self.network: Any = model.eval().requires_grad_(False)
        self.num_features: int = model.roi_heads.box_predictor.cls_score.in_features

    def to(self, device: torch.device) -> None:
        self.network.to(device)

    def look(self, images: Tensor, sizes: Tensor, boxes: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.network.backbone(self._normalised(images, sizes))
        shapes = [(images.shape[2], images.shape[3])] * len(images)
        return second_stage_at(self.network.roi_heads, maps, shapes, boxes, image)

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        found = []
        pixels = _from_0_to_1(images)
        transform = self.network.transform
        kept = transform.min_size, transform.max_size
        try:
            for image, (height, width) in zip(pixels, sizes.tolist(), strict=True):
                transform.min_size, transform.max_size = (min(height, width),), max(height, width)
                result = self.network([image[:, :height, :width]])[0]
                found.append(Detections(result["boxes"], result["scores"], result["labels"] - 1))
        finally:
            transform.min_size, transform.max_size = kept
        return found

    def _normalised(self, images: Tensor, sizes: Tensor) -> Tensor:
        pixels = _from_0_to_1(images)
        transform = self.network.transform
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (transform.image_mean, transform.image_std))
        rows = torch.arange(images.shape[2], device=images.device)[None, :, None] < sizes[:, 0, None, None]
        columns = torch.arange(images.shape[3], device=images.device)[None, None] < sizes[:, 1, None, None]
        return (pixels - mean) / std * (rows & columns)[:, None]


def _from_0_to_1(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images
