"""Asks two-stage teachers, which look at the student's own boxes, each pooled from features of theirs.

N boxes of a batch, K classes of the student, D width of a box's feature.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mimicdet.config import InferenceSettings
from mimicdet.inference.decode import Detections
from mimicdet.inference.detect import detect
from mimicdet.models.detector import log_odds
from mimicdet.models.faster_rcnn import FasterRcnn, SecondStage, second_stage_at
from mimicdet.teachers.teacher import NEVER, Teacher, half_precision


class RoiView(NamedTuple):
    """Holds what a teacher says of boxes; ordinary tensors without gradient."""

    logits: Tensor  # (N, K) log-odds of each class's score
    boxes: Tensor  # (N, 4) moved by the teacher
    features: Tensor  # (N, D) what the scores are computed from


class RoiHead(Protocol):
    """Defines what is asked of a two-stage detector as teacher; what it returns may be of inference mode."""

    num_features: int

    @property
    def network(self) -> nn.Module: ...

    def second_stage(self, images: Tensor, sizes: Tensor, boxes: Tensor, image: Tensor) -> SecondStage:
        """Scores and moves boxes; each is moved once, or for every class of the teacher's.

        Args:
            images, sizes: (B, 3, H, W), (B, 2).
            boxes: (N, 4) in pixels of the canvas, with an area.
            image: (N,) int64.
        """
        ...

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """Detects by itself, labels from 0."""
        ...


class RoiTeacher(Teacher):
    """A two-stage teacher is a frozen detector that scores, moves and describes boxes that it is given."""

    def __init__(self, *, head: RoiHead, classes: Sequence[int], name: str = "teacher") -> None:
        super().__init__(network=head.network, classes=classes, name=name)
        self.head = head

    @property
    def num_features(self) -> int:
        """Returns D."""
        return self.head.num_features

    def view(self, images: Tensor, sizes: Tensor, boxes: Tensor, image: Tensor, label: Tensor) -> RoiView:
        """Says of boxes what they hold, in the student's classes.

        Args:
            images, sizes, boxes, image: as for ``RoiHead.second_stage``; boxes without an area count as a pixel.
            label: (N,) the student's class that a box is moved for.
        """
        self.network.to(images.device)
        boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)], dim=1)
        with torch.inference_mode(), half_precision(images.device):
            seen = self.head.second_stage(images, sizes, boxes, image)
        # Copies: tensors of inference mode may not be saved for a backward pass
        logits, moved, features = (t.clone().float() for t in seen)
        index = torch.tensor([max(c, 0) for c in self.classes], device=logits.device)
        unknown = ~self.known(logits.device)
        odds = log_odds(logits.log_softmax(-1)[:, 1:])
        which = index[label] if moved.shape[1] > 1 else torch.zeros_like(label)
        boxes = moved[torch.arange(len(moved), device=moved.device), which]
        return RoiView(odds[:, index].masked_fill(unknown, NEVER), boxes, features)

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        with torch.inference_mode(False):
            self.network.to(images.device)
        with torch.inference_mode():
            return self.head.detect(images, sizes)


class OwnFasterRcnn:
    """Puts this project's own trained Faster R-CNN behind the contract."""

    def __init__(self, *, network: FasterRcnn) -> None:
        self.network = network
        self.num_features: int = network.roi_heads.box_predictor.cls_score.in_features

    def second_stage(self, images: Tensor, sizes: Tensor, boxes: Tensor, image: Tensor) -> SecondStage:
        """See ``RoiHead``."""
        return self.network.second_stage_at(images, sizes, boxes, image)

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """See ``RoiHead``; with the default settings."""
        return detect(self.network, images, sizes, InferenceSettings())


class TorchvisionFasterRcnn:
    """Puts torchvision's own Faster R-CNN behind the contract."""

    def __init__(self, *, model: Any) -> None:
        self.network: Any = model.eval().requires_grad_(False)
        self.num_features: int = model.roi_heads.box_predictor.cls_score.in_features

    def second_stage(self, images: Tensor, sizes: Tensor, boxes: Tensor, image: Tensor) -> SecondStage:
        """See ``RoiHead``."""
        maps = self.network.backbone(self._normalised(images, sizes))
        shapes = [(images.shape[2], images.shape[3])] * len(images)
        return second_stage_at(self.network.roi_heads, maps, shapes, boxes, image)

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """See ``RoiHead``; with torchvision's own thresholds."""
        found, transform = [], self.network.transform
        kept = transform.min_size, transform.max_size
        try:
            for image, (height, width) in zip(_from_0_to_1(images), sizes.tolist(), strict=True):
                transform.min_size, transform.max_size = (min(height, width),), max(height, width)
                result = self.network([image[:, :height, :width]])[0]
                found.append(Detections(result["boxes"], result["scores"], result["labels"] - 1))
        finally:
            transform.min_size, transform.max_size = kept
        return found

    def _normalised(self, images: Tensor, sizes: Tensor) -> Tensor:
        pixels, transform = _from_0_to_1(images), self.network.transform
        mean, std = (pixels.new_tensor(values)[:, None, None] for values in (transform.image_mean, transform.image_std))
        rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
        inside = (rows[:, None] < sizes[:, 0, None, None]) & (columns < sizes[:, 1, None, None])  # (B, H, W)
        return (pixels - mean) / std * inside[:, None]


def _from_0_to_1(images: Tensor) -> Tensor:
    return images.float() / 255 if images.dtype == torch.uint8 else images
