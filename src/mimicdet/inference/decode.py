"""From dense output to detections: the only place where a model's boxes are suppressed (section 4.2)."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torchvision.ops import batched_nms

from mimicdet.models.dense import DenseOutput, ScoredOutput
from mimicdet.ops.boxes import clip_to_sizes


class Detections(NamedTuple):
    """Of one image, best score first."""

    boxes: Tensor  # (N, 4) x1 y1 x2 y2 in pixels of the resized image, clipped to it
    scores: Tensor  # (N,) in 0..1
    labels: Tensor  # (N,) int64 class index 0..K-1


def decode(
    output: DenseOutput | ScoredOutput,
    sizes: Tensor,
    *,
    score_threshold: float = 0.005,
    nms_iou: float = 0.6,
    max_detections: int = 100,
    top: int = 1000,
) -> list[Detections]:
    """Scores (of MimicDet by softmax, without the background), class-wise NMS, the best detections.

    Args:
        output: of a detector; where it covers more positions than ``top``, the best are taken (MimicDet's by
            objectness, others' by their best class), so that dense output and output at positions give the same.
        sizes: (B, 2) int64, height and width that boxes are clipped to.
        score_threshold: detections must score higher.
        nms_iou: class-wise suppression above this IoU.
        max_detections: of an image.
        top: R, positions of an image that are looked at.
    """
    boxes, scores = boxes_and_scores(output, sizes, top=top)
    return [
        detections_of_image(boxes_i, scores_i, score_threshold, nms_iou, max_detections)
        for boxes_i, scores_i in zip(boxes, scores, strict=True)
    ]


def boxes_and_scores(output: DenseOutput | ScoredOutput, sizes: Tensor, *, top: int) -> tuple[Tensor, Tensor]:
    """Boxes (B, R, 4) clipped to ``sizes`` and scores (B, R, K) in 0..1, before suppression; arguments as ``decode``'s.

    A position on the padding has score 0 for every class.
    """
    r = output.positions.shape[1]
    if isinstance(output, ScoredOutput):
        scores, boxes = output.scores, output.boxes
        if r > top:
            best = scores.amax(-1).topk(top, dim=1).indices[..., None]
            scores, boxes = (
                scores.gather(1, best.expand(-1, -1, scores.shape[2])),
                boxes.gather(1, best.expand(-1, -1, 4)),
            )
        return clip_to_sizes(boxes, sizes), scores
    logits, boxes = output.logits, output.boxes
    objectness = output.objectness.gather(1, output.positions)
    if r > top:
        objectness, best = objectness.topk(top, dim=1)
        logits = logits.gather(1, best[..., None].expand(-1, -1, logits.shape[2]))
        boxes = boxes.gather(1, best[..., None].expand(-1, -1, 4))
    scores = logits.softmax(-1)[..., :-1].masked_fill(objectness.isneginf()[..., None], 0)
    return clip_to_sizes(boxes, sizes), scores


def detections_of_image(
    boxes: Tensor, scores: Tensor, score_threshold: float, nms_iou: float, max_detections: int
) -> Detections:
    """Boxes (R, 4) with scores (R, K) of one image -> its detections. Boxes without area are dropped."""
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(-1)
    row, label = ((scores > score_threshold) & has_area[:, None]).nonzero(as_tuple=True)
    boxes, scores = boxes[row], scores[row, label]
    kept = batched_nms(boxes, scores, label, nms_iou)[:max_detections]
    return Detections(boxes[kept], scores[kept], label[kept])
