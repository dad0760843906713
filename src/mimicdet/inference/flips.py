"""Detects in mirrored copies of the images too, and makes one set of boxes out of all of them.

A mirror image shows the same objects in another way, so that the best of several looks at one is better than a single
look. B images, H W the padded canvas, N boxes.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from mimicdet.config import InferenceSettings
from mimicdet.inference.decode import Detections

VIEWS = {
    "none": ((False, False),),
    "horizontal": ((False, False), (True, False)),
    "all": ((False, False), (True, False), (False, True), (True, True)),
}
"""By ``InferenceSettings.flips``: whether each view is mirrored left-right, and top-bottom."""


def detect_in_views(
    detect: Callable[[Tensor], Sequence[Detections]], images: Tensor, sizes: Tensor, inference: InferenceSettings
) -> list[Detections]:
    """Puts together what ``detect`` finds in B images and their mirrored copies, by class-wise NMS over all views.

    Args:
        detect: (B, 3, H, W) -> detections of each image, in pixels of the resized image and inside it.
        images: (B, 3, H, W), each in the upper left part of the canvas.
        sizes: (B, 2) int64, height and width of that part.
        inference: its ``flips`` are the views (with ``none`` the result is what ``detect`` gives); its ``nms_iou`` and
            ``max_detections`` hold for all views together.
    """
    views = VIEWS[inference.flips]
    if len(views) == 1:
        return list(detect(images))
    found = []
    for x, y in views:
        parts = zip(detect(mirror_images(images, sizes, left_right=x, top_bottom=y)), sizes, strict=True)
        found.append([p._replace(boxes=mirror_boxes(p.boxes, s, left_right=x, top_bottom=y)) for p, s in parts])
    return [_merge(parts, inference) for parts in zip(*found, strict=True)]


def mirror_images(images: Tensor, sizes: Tensor, *, left_right: bool, top_bottom: bool) -> Tensor:
    """Mirrors each of B images inside its own part of the canvas (B, 3, H, W); the padding stays where it is."""
    for dim, mirrored in ((2, top_bottom), (3, left_right)):
        if mirrored:
            length = sizes[:, dim - 2, None]
            index = torch.arange(images.shape[dim], device=images.device)[None]  # (1, H) or (1, W)
            index = torch.where(index < length, length - 1 - index, index)
            index = index[:, None, :, None] if dim == 2 else index[:, None, None, :]
            images = images.gather(dim, index.expand_as(images))
    return images


def mirror_boxes(boxes: Tensor, size: Tensor, *, left_right: bool, top_bottom: bool) -> Tensor:
    """Mirrors boxes (N, 4) in an image of ``size`` (2,) height, width; its own inverse."""
    height, width = size.to(boxes.dtype)
    x1, y1, x2, y2 = boxes.unbind(-1)
    if left_right:
        x1, x2 = width - x2, width - x1
    if top_bottom:
        y1, y2 = height - y2, height - y1
    return torch.stack([x1, y1, x2, y2], dim=-1)


def _merge(parts: Sequence[Detections], inference: InferenceSettings) -> Detections:
    boxes, scores, labels = (torch.cat(field) for field in zip(*parts, strict=True))
    kept = batched_nms(boxes, scores, labels, inference.nms_iou)[: inference.max_detections]
    return Detections(boxes[kept], scores[kept], labels[kept])
