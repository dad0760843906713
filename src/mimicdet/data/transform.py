"""Resizes a decoded image to the network's input size, and varies it for training.

Everything stays uint8 and is resized once, by antialiased bilinear interpolation. Boxes follow by the exact
ratio of the new to the old size of each axis. h w are an image's rows and columns, M its objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

MIN_VISIBLE = 0.3
"""An object stays a target when at least this share of its area is left inside the crop."""
MIN_KEPT_SIDE = 1.0
"""Objects with a side shorter than this many pixels of the network's input are no targets."""


def resized_size(height: int, width: int, *, shorter_side: int, longer_side: int) -> tuple[int, int]:
    """Returns height and width with the aspect kept: shorter side ``shorter_side``, longer within ``longer_side``."""
    scale = min(shorter_side / min(height, width), longer_side / max(height, width))
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def _to_tensor(image: np.ndarray) -> Tensor:
    """Views an array (h, w, 3) uint8 as (3, h, w); read-only and reversed ones, which torch refuses, are copied."""
    return torch.from_numpy(np.require(image, np.uint8, ["C", "W"])).permute(2, 0, 1)


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[1:] == (height, width):
        return image
    return F.resize(image, [height, width], interpolation=InterpolationMode.BILINEAR, antialias=True)


def resize_for_inference(image: np.ndarray, shorter_side: int, longer_side: int) -> Tensor:
    """Resizes an image as the network reads it in evaluation and prediction: (h, w, 3) uint8 -> (3, h', w') uint8.

    A box in the result's pixels comes back to the image's by the factors ``w / w'`` and ``h / h'``.
    """
    size = resized_size(*image.shape[:2], shorter_side=shorter_side, longer_side=longer_side)
    return _resize(_to_tensor(image), *size).contiguous()


@dataclass(frozen=True)
class Plan:
    """A plan says what :class:`TrainTransform` drew for one image; it is done once the pixels are there."""

    size: tuple[int, int]  # height and width of the whole image
    canvas: tuple[int, int]
    zoom: float
    place: tuple[float, float]  # of the window, or of the image on the canvas: down and right, 0..1
    colors: tuple[float, float, float]  # factors of brightness, contrast, saturation
    mirrored: bool
    upside_down: bool
    turned: bool

    @property
    def scale(self) -> float:
        """Returns by how much the pixels that are used shrink: a file may be decoded at this share of its size."""
        return self.zoom * max(new / old for new, old in zip(self.canvas, self.size, strict=True))

    def apply(
        self, image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, crowd: np.ndarray, *, reduction: int = 1
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Transforms the image (h, w, 3) uint8 RGB, whose sides ``reduction`` divided, and its M objects.

        The boxes (M, 4) ``x1 y1 x2 y2`` are in pixels of the whole image. Returns the
        image (3, h', w') uint8, boxes (M', 4) float32, labels (M',) int64 and crowd (M',) bool.
        """
        height, width = image.shape[:2]
        canvas_h, canvas_w = self.canvas
        # Zooming in cuts the window out before the one resize; zooming out resizes to less than the canvas.
        crop_h, crop_w = (max(round(side / max(self.zoom, 1.0)), 1) for side in (height, width))
        new_h, new_w = (max(round(side * min(self.zoom, 1.0)), 1) for side in (canvas_h, canvas_w))
        y, x = self.place
        top, left = (int(u * (room + 1)) for u, room in ((y, height - crop_h), (x, width - crop_w)))
        down, right = (int(u * (room + 1)) for u, room in ((y, canvas_h - new_h), (x, canvas_w - new_w)))
        window = _to_tensor(image)[:, top : top + crop_h, left : left + crop_w]  # (3, crop_h, crop_w)
        pixels = _resize(window, new_h, new_w)  # (3, new_h, new_w)
        if self.colors != (1, 1, 1):
            brightness, contrast, saturation = self.colors
            pixels = F.adjust_saturation(
                F.adjust_contrast(F.adjust_brightness(pixels, brightness), contrast), saturation
            )
        if (new_h, new_w) != (canvas_h, canvas_w):
            canvas = pixels.new_zeros(3, canvas_h, canvas_w)
            canvas[:, down : down + new_h, right : right + new_w] = pixels
            pixels = canvas  # (3, canvas_h, canvas_w)
        corners = np.asarray(boxes, np.float64).reshape(-1, 2, 2) / reduction  # (M, 2 corners, x y)
        corners = (corners - (left, top)) * (new_w / crop_w, new_h / crop_h) + (right, down)
        full_area = np.prod(corners[:, 1] - corners[:, 0], axis=1)  # (M,)
        corners = corners.clip((right, down), (right + new_w, down + new_h))
        sides = corners[:, 1] - corners[:, 0]  # (M, 2)
        # The tolerance keeps an object that was exactly one pixel from falling to rounding.
        kept = (sides >= MIN_KEPT_SIDE - 1e-6).all(1) & (sides.prod(1) >= MIN_VISIBLE * full_area - 1e-6)  # (M,)
        corners = corners[kept]  # (M', 2, 2)
        if self.mirrored:
            pixels = F.horizontal_flip(pixels)
            corners[..., 0] = canvas_w - corners[:, ::-1, 0]
        if self.upside_down:
            pixels = F.vertical_flip(pixels)
            corners[..., 1] = canvas_h - corners[:, ::-1, 1]
        if self.turned:
            pixels = torch.rot90(pixels, 1, (1, 2)).contiguous()
            across, along = corners[..., 0], corners[..., 1]
            corners = np.stack((along, canvas_w - across[:, ::-1]), -1)
        boxes = corners.reshape(-1, 4).astype(np.float32)  # (M', 4)
        labels, crowd = np.asarray(labels, np.int64)[kept], np.asarray(crowd, np.bool_)[kept]  # (M',)
        return pixels, torch.from_numpy(boxes), torch.from_numpy(labels), torch.from_numpy(crowd)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainTransform:
    """Draws a random size, zoom, colours and flips for one image and its boxes.

    1. Size: the shorter side is one of ``shorter_side`` (or any whole number from the smallest to the largest
       of them), the longer one at most ``longer_side``. This size is the canvas.
    2. Zoom by a factor drawn log-uniformly from ``scale_jitter``, so that halving and doubling are equally
       likely: above 1 a window at a random place of the image fills the canvas, below 1 the whole image lies at
       a random place of a black canvas, whose rest is background to learn from.
    3. Brightness, contrast and saturation, each by a factor within ``1 +- color_jitter``.
    4. Mirrored and upside down with probabilities ``horizontal_flip`` and ``vertical_flip``, then a quarter turn
       to the left with probability ``quarter_turn``; one half each draws all eight orientations alike often.

    Boxes are clipped to the canvas; objects and crowd regions of which less than ``MIN_VISIBLE`` of the area
    is left, or a side under ``MIN_KEPT_SIDE`` pixels, are dropped.
    """

    shorter_side: Sequence[int]
    shorter_side_sampling: str  # "choice" or "range"
    longer_side: int
    scale_jitter: tuple[float, float]
    horizontal_flip: float
    vertical_flip: float
    quarter_turn: float
    color_jitter: float

    def __post_init__(self) -> None:
        if self.shorter_side_sampling not in ("choice", "range"):
            raise ValueError(f'shorter_side_sampling must be "choice" or "range", not {self.shorter_side_sampling!r}')
        if not self.shorter_side or not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise ValueError("shorter_side needs a size, and scale_jitter two positive factors, smaller first")

    def plan(self, size: tuple[int, int], generator: torch.Generator) -> Plan:
        """Draws what to do with an image of that height and width, by equally many draws whatever the settings are."""
        draws = torch.rand(10, generator=generator, dtype=torch.float64).tolist()
        every = range(min(self.shorter_side), max(self.shorter_side) + 1)
        sides = every if self.shorter_side_sampling == "range" else self.shorter_side
        shorter_side = sides[int(draws[0] * len(sides))]
        low, high = self.scale_jitter
        brightness, contrast, saturation = (1 + self.color_jitter * (2 * u - 1) for u in draws[4:7])
        canvas = resized_size(*size, shorter_side=shorter_side, longer_side=self.longer_side)
        zoom, place, colors = low * (high / low) ** draws[1], (draws[2], draws[3]), (brightness, contrast, saturation)
        mirrored, upside_down = draws[7] < self.horizontal_flip, draws[8] < self.vertical_flip
        return Plan(size, canvas, zoom, place, colors, mirrored, upside_down, turned=draws[9] < self.quarter_turn)
