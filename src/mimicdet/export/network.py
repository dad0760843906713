"""Builds the networks that are exported: a detector with plain tensors in and out, with suppression or without.

In suppression every box keeps its place and suppressed ones lose their score, so no shape depends on how many are left.
B images, H W the canvas (multiples of 32), R boxes of an image, K classes, D detections.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import nms

from mimicdet.models.detector import DetectionModel, Predictions
from mimicdet.ops.boxes import clip_to_sizes

NO_LABEL = -1
"""Class index of the rows that fill up an image's detections."""

INPUTS = ("images", "sizes")
OUTPUTS = {"raw": ("boxes", "scores"), "detections": ("boxes", "scores", "labels")}

Suppress = Callable[[Tensor, Tensor, float, float], Tensor]
"""boxes (B, R, 4) with sides >= 0, scores (B, R, K), IoU, score threshold -> the scores (B, R, K) that are left."""


class RawNetwork(nn.Module):
    """Returns a detector's boxes and scores before suppression, best position first, R of at most ``top``."""

    def __init__(self, *, model: DetectionModel, top: int) -> None:
        super().__init__()
        self.model, self.top = model, top

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Detects on images (B, 3, H, W) uint8 RGB, given their heights and widths on the canvas (B, 2) int64.

        Returns boxes (B, R, 4) x1 y1 x2 y2 in pixels of the canvas, inside the image; scores (B, R, K) in 0..1.
        """
        found: Predictions = self.model(images, sizes, top=self.top)
        return clip_to_sizes(found.boxes, sizes), found.scores


class DetectingNetwork(nn.Module):
    """Returns a detector's detections after class-wise suppression, in a fixed number of rows.

    ``suppress`` sets scores of suppressed boxes to 0; the limits are those of ``mimicdet.config.InferenceSettings``.
    """

    def __init__(
        self, *, raw: RawNetwork, suppress: Suppress, score_threshold: float, nms_iou: float, max_detections: int
    ) -> None:
        super().__init__()
        self.raw, self.suppress = raw, suppress
        self.score_threshold, self.nms_iou, self.max_detections = score_threshold, nms_iou, max_detections

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detects on the same inputs as ``RawNetwork.forward``.

        Returns boxes (B, D, 4), scores (B, D) and class indices (B, D) int64, best score first, D = ``max_detections``.
        Rows beyond an image's detections have score 0 and class ``NO_LABEL``.
        """
        boxes, scores = self.raw(images, sizes)  # (B, R, 4), (B, R, K)
        has_area = (boxes[..., 2:] > boxes[..., :2]).all(-1)  # (B, R)
        scores = scores * has_area[..., None]
        kept = self.suppress(boxes, scores, self.nms_iou, self.score_threshold)
        classes = scores.shape[2]
        # Filled up with D zeros, so that there are D to choose whatever the size of the image
        best, index = F.pad(kept.flatten(1), (0, self.max_detections)).topk(self.max_detections, dim=1)  # (B, D)
        found = best > 0
        row = torch.where(found, index // classes, 0)
        labels = torch.where(found, index - index // classes * classes, NO_LABEL)
        chosen = boxes.gather(1, row[..., None].expand(-1, -1, 4)) * found[..., None]
        return chosen, best, labels


def build_network(model: DetectionModel, inference: dict[str, Any], outputs: str, format: str) -> nn.Module:
    """Returns the network that a file of ``format`` with ``outputs`` is made of; see ``export_model``."""
    raw = RawNetwork(model=model, top=inference["positions"]).eval()
    if outputs == "raw":
        return raw
    suppress = suppress_by_torchvision if format == "torch" else suppress_as_one_operator
    limits = {name: inference[name] for name in ("score_threshold", "nms_iou", "max_detections")}
    return DetectingNetwork(raw=raw, suppress=suppress, **limits)


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
        by_class, rows = op.Transpose(scores, perm=[0, 2, 1]), op.Shape(boxes, start=1, end=2)
        iou, threshold = op.Constant(value_floats=[nms_iou]), op.Constant(value_floats=[score_threshold])
        kept = op.NonMaxSuppression(boxes, by_class, rows, iou, threshold)  # (N, 3) image, class, box
        nothing = op.Expand(op.Constant(value_float=0.0), op.Shape(by_class))
        left = op.ScatterND(nothing, kept, op.GatherND(by_class, kept))
        return op.Transpose(left, perm=[0, 2, 1])

    return {torch.ops.mimicdet.suppress.default: suppress}
