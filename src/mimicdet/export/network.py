"""The networks that are exported: a detector with plain tensors in and out.

B images, H W the canvas (multiples of 32), R positions that the S-head looks at, K classes, D detections.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mimicdet.export.suppress import Suppress
from mimicdet.models.detector import DetectionModel, Predictions
from mimicdet.ops.boxes import clip_to_sizes

NO_LABEL = -1
"""Class index of the rows that fill up an image's detections."""

RAW_OUTPUTS = ("boxes", "scores")
DETECTION_OUTPUTS = ("boxes", "scores", "labels")
INPUTS = ("images", "sizes")


class RawNetwork(nn.Module):
    """A detector that returns boxes and scores before suppression, best position first.

    Args:
        model: in evaluation mode.
        top: R, at most.
    """

    def __init__(self, *, model: DetectionModel, top: int) -> None:
        super().__init__()
        self.model = model
        self.top = top

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Detects on images (B, 3, H, W) uint8 RGB, given their heights and widths on the canvas (B, 2) int64.

        Returns:
            Boxes (B, R, 4) x1 y1 x2 y2 in pixels of the canvas, inside the image; scores (B, R, K) in 0..1.
        """
        found: Predictions = self.model(images, sizes, top=self.top)
        return clip_to_sizes(found.boxes, sizes), found.scores


class DetectingNetwork(nn.Module):
    """A detector that returns detections after class-wise suppression, in a fixed number of rows.

    Args:
        raw: makes boxes and scores.
        suppress: sets the scores of suppressed boxes to 0.
        score_threshold, nms_iou, max_detections: see ``mimicdet.config.InferenceSettings``.
    """

    def __init__(
        self, *, raw: RawNetwork, suppress: Suppress, score_threshold: float, nms_iou: float, max_detections: int
    ) -> None:
        super().__init__()
        self.raw = raw
        self.suppress = suppress
        self.score_threshold = score_threshold
        self.nms_iou = nms_iou
        self.max_detections = max_detections

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Detects on the same inputs as ``RawNetwork.forward``.

        Returns:
            Boxes (B, D, 4), scores (B, D) and class indices (B, D) int64, best score first, D = ``max_detections``.
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
