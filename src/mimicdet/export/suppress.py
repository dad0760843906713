"""Class-wise suppression inside an exported model: every box keeps its place, suppressed ones lose their score.

So no shape depends on how many boxes are left. B images, R boxes each, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import nms

Suppress = Callable[[Tensor, Tensor, float, float], Tensor]
"""boxes (B, R, 4) with sides >= 0, scores (B, R, K), IoU, score threshold -> the scores (B, R, K) that are left."""


def suppress_by_torchvision(boxes: Tensor, scores: Tensor, nms_iou: float, score_threshold: float) -> Tensor:
    """Keeps scores above the threshold whose box overlaps no better one of its class by more than ``nms_iou``.

    One call of torchvision's operator: the boxes of each image and class are moved to a place of their own.
    """
    b, r, k = scores.shape
    count = b * r * k
    # Two boxes more, at places of their own: in tracing, torch assumes that a number it does not know is two at least,
    # and an image may show nothing
    flat = F.pad(scores.flatten(), (0, 2))  # (B R K + 2,)
    wanted = F.pad(flat[:count] > score_threshold, (0, 2), value=True)
    index = wanted.nonzero().squeeze(1)  # (N,)
    row = (index // k).clamp(max=b * r - 1)  # (N,), into boxes (B R, 4)
    place = torch.where(index < count, (row // r) * k + index % k, b * k + index - count)
    # In float64, for with many classes the places lie far out
    corners = boxes.double().flatten(0, 1)
    chosen = corners[row] + (place.double() * (corners.amax() + 1))[:, None]
    kept = index[nms(chosen, flat[index].double(), nms_iou)]
    return torch.zeros_like(flat).index_put((kept,), flat[kept])[:count].reshape(b, r, k)


@torch.library.custom_op("mimicdet::suppress", mutates_args=())
def suppress_as_one_operator(boxes: Tensor, scores: Tensor, nms_iou: float, score_threshold: float) -> Tensor:
    """Does the same as one operator, which the export to ONNX translates to ONNX's own (``onnx_translations``)."""
    return suppress_by_torchvision(boxes, scores, nms_iou, score_threshold)


@suppress_as_one_operator.register_fake
def _(boxes: Tensor, scores: Tensor, nms_iou: float, score_threshold: float) -> Tensor:
    return torch.empty_like(scores)


def onnx_translations() -> dict[Any, Any]:
    """Returns, for ``torch.onnx.export``, the operator above in ONNX's standard operators."""
    from onnxscript import opset20 as op

    def suppress(boxes: Any, scores: Any, nms_iou: float, score_threshold: float) -> Any:
        by_class = op.Transpose(scores, perm=[0, 2, 1])
        rows = op.Shape(boxes, start=1, end=2)
        iou = op.Constant(value_floats=[nms_iou])
        threshold = op.Constant(value_floats=[score_threshold])
        kept = op.NonMaxSuppression(boxes, by_class, rows, iou, threshold)  # (N, 3) image, class, box
        nothing = op.Expand(op.Constant(value_float=0.0), op.Shape(by_class))
        left = op.ScatterND(nothing, kept, op.GatherND(by_class, kept))
        return op.Transpose(left, perm=[0, 2, 1])

    return {torch.ops.mimicdet.suppress.default: suppress}
