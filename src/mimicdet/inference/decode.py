"""From predictions to detections: the only place where a model's boxes are suppressed (section 4.2).

B images, R rows of an image, K classes, N detections of an image.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from mimicdet.config import InferenceSettings
from mimicdet.models.detector import Predictions
from mimicdet.ops.boxes import clip_to_sizes

_ONE_GO = 1000
"""Up to so many boxes, ``batched_nms`` suppresses all classes in one go, each class moved far away from the others."""


class Detections(NamedTuple):
    """Holds what is found in one image, best score first."""

    boxes: Tensor  # (N, 4) x1 y1 x2 y2 in pixels of the resized image, clipped to it
    scores: Tensor  # (N,) in 0..1
    labels: Tensor  # (N,) int64 class index 0..K-1


def decode(predictions: Predictions, sizes: Tensor, inference: InferenceSettings) -> list[Detections]:
    """Clips the predictions of each of B images to its ``sizes`` (B, 2) int64 height, width; thresholds, suppresses.

    ``inference`` gives ``score_threshold``, ``nms_iou`` (class-wise) and ``max_detections``.
    """
    boxes = clip_to_sizes(predictions.boxes, sizes)  # (B, R, 4)
    return [detections_of_image(*image, inference) for image in zip(boxes, predictions.scores, strict=True)]


def detections_of_image(boxes: Tensor, scores: Tensor, inference: InferenceSettings) -> Detections:
    """Finds the detections among boxes (R, 4) with scores (R, K) of one image. Boxes without area are dropped."""
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(-1)  # (R,)
    row, label = ((scores > inference.score_threshold) & has_area[:, None]).nonzero(as_tuple=True)
    boxes, scores = boxes[row], scores[row, label]
    kept = _suppress(boxes, scores, label, inference)
    return Detections(boxes[kept], scores[kept], label[kept])


def _suppress(boxes: Tensor, scores: Tensor, label: Tensor, inference: InferenceSettings) -> Tensor:
    """Returns which of N boxes class-wise suppression keeps, best first, at most ``max_detections``: (n,) int64."""
    most = inference.max_detections
    if len(boxes) <= _ONE_GO:
        return batched_nms(boxes, scores, label, inference.nms_iou)[:most]
    # Whether a box is kept depends on better ones alone: the worse need no look where the best hold all that is wanted
    best = scores.sort(descending=True, stable=True).indices
    looked_at = 4 * most
    while True:
        some = best[:looked_at]
        kept = _suppress_by_class(boxes[some], scores[some], label[some], inference.nms_iou)
        if len(kept) >= most or looked_at >= len(best):
            return some[kept[:most]]
        looked_at *= 4


def _suppress_by_class(boxes: Tensor, scores: Tensor, label: Tensor, nms_iou: float) -> Tensor:
    """Returns which boxes, sorted by score, are kept: the indices in ascending order."""
    members = [(label == one).nonzero().squeeze(1) for one in label.unique()]
    return torch.cat([own[nms(boxes[own], scores[own], nms_iou)] for own in members]).sort().values
