"""From predictions to detections: the only place where a model's boxes are suppressed (section 4.2).

B images, R rows of an image, K classes, N detections of an image.
"""

from typing import NamedTuple

from torch import Tensor
from torchvision.ops import batched_nms

from mimicdet.config import InferenceSettings
from mimicdet.models.detector import Predictions
from mimicdet.ops.boxes import clip_to_sizes


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
    kept = batched_nms(boxes, scores, label, inference.nms_iou)[: inference.max_detections]
    return Detections(boxes[kept], scores[kept], label[kept])
