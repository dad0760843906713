#!/usr/bin/env python3
"""Runs a model that ``mimicdet export --format onnx`` wrote, with numpy, Pillow and onnxruntime alone (no torch).

    python run_onnx.py model.onnx photo.jpg other.jpg          one line of JSON for each photograph

This file imports nothing of mimicdet: copy it to where the model runs, with model.onnx and model.onnx.json.
From Python:

    detector = OnnxDetector("model.onnx")
    result = detector("photo.jpg")      # {"boxes": (N, 4), "scores": (N,), "labels": (N,), "names": [...]}
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import ExifTags, Image

VIEWS = {
    "none": ((False, False),),
    "horizontal": ((False, False), (True, False)),
    "all": ((False, False), (True, False), (False, True), (True, True)),
}
"""The views of the image by the setting ``flips``: is it mirrored left-right, and top-bottom?"""
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
"""The formats that are read."""
MAX_PIXELS = 175_000_000
"""Images with more pixels are refused."""
_TURN = Image.Transpose
TURNS = {2: _TURN.FLIP_LEFT_RIGHT, 3: _TURN.ROTATE_180, 4: _TURN.FLIP_TOP_BOTTOM, 5: _TURN.TRANSPOSE}
TURNS |= {6: _TURN.ROTATE_270, 7: _TURN.TRANSVERSE, 8: _TURN.ROTATE_90}
"""How to turn an image upright, by its orientation as EXIF numbers it."""
SIDES, IDS = range(1, 100_001), range(-(2**63), 2**63)
SETTINGS: dict[str, Callable[[Any], bool]] = {
    "flips": lambda value: isinstance(value, str) and value in VIEWS,
    "longer_side": lambda value: _is_whole(value, SIDES),
    "max_detections": lambda value: _is_whole(value, range(1, 2**31)),
    "nms_iou": lambda value: _is_share(value),
    "score_threshold": lambda value: _is_share(value),
    "shorter_side": lambda value: _is_whole(value, SIDES),
}
"""The settings of inference that the description must hold, and what they may be."""


class UnusableFileError(Exception):
    """A file is missing or damaged. The message is one sentence: the file, what is wrong, the way out."""


class OnnxDetector:
    """Runs a detector that was exported to ONNX.

    Args:
        file: the .onnx file; beside it lies its description (.json). UnusableFileError: one is missing or damaged.
        threads: to compute with; 0 leaves it to onnxruntime.
        providers: onnxruntime's names of the devices to run on, best first.
    """

    def __init__(
        self, file: str | Path, *, threads: int = 0, providers: tuple[str, ...] = ("CPUExecutionProvider",)
    ) -> None:
        for read in (file, f"{file}.json"):
            if _is_special(read):
                raise UnusableFileError(f"{read} is a pipe, a socket or a device; put a file on a disk in its place")
        if not Path(file).is_file():
            raise UnusableFileError(f"{file}: there is no such file; name one that `mimicdet export` wrote")
        self.file = file
        self._describe(Path(f"{file}.json"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 4  # what is wrong is said once, below
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=list(providers))
        except Exception as error:  # onnxruntime has many
            raise UnusableFileError(f"{file} cannot be loaded ({_reason(error)}); export the model again") from error

    def _describe(self, beside: Path) -> None:
        try:
            about = json.loads(beside.read_text(encoding="utf-8"))
            self.inference: dict[str, Any] = {name: about["inference"][name] for name in SETTINGS}
            self.divisor: int = about["divisor"]
            self.has_suppression: bool = about["outputs"] == "detections"
            ids, self.names = ([one[key] for one in about["categories"]] for key in ("id", "name"))
            wrong = [f"inference.{name}" for name, fits in SETTINGS.items() if not fits(self.inference[name])]
            wrong += ["divisor"] * (not _is_whole(self.divisor, range(1, 4097)))
            wrong += ["outputs"] * (about["outputs"] not in ("detections", "raw"))
            named = all(isinstance(name, str) for name in self.names)
            wrong += ["categories"] * (not ids or not named or not all(_is_whole(one, IDS) for one in ids))
            if wrong:
                raise ValueError(f"its {wrong[0]} cannot be so")
            self.ids = np.array(ids, np.int64)
        except FileNotFoundError as error:
            problem = "there is no such file, which `mimicdet export` writes; keep the two together"
            raise UnusableFileError(f"{beside}: {problem}") from error
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            why = f"it lacks {error}" if isinstance(error, KeyError) else _reason(error)
            raise UnusableFileError(f"{beside} is damaged ({why}); export the model again") from error

    def __call__(self, image: str | Path | Image.Image | np.ndarray) -> dict[str, Any]:
        """Detects the objects of a file, a Pillow image, or an array (h, w, 3) uint8 RGB, best score first.

        Returns boxes (N, 4) float64 x1 y1 x2 y2 in pixels of the upright image; scores (N,) float32 in 0..1; labels
        (N,), the data set's own category ids; names, N of them.
        UnusableFileError: the file is missing, damaged or no image.
        """
        pixels = _pixels(image)
        height, width = pixels.shape[:2]
        found = []
        for left_right, top_bottom in VIEWS[self.inference["flips"]]:
            boxes, scores, classes = self._look(pixels[:: -1 if top_bottom else 1, :: -1 if left_right else 1])
            x1, y1, x2, y2 = boxes.T
            x1, x2 = (width - x2, width - x1) if left_right else (x1, x2)
            y1, y2 = (height - y2, height - y1) if top_bottom else (y1, y2)
            found.append((np.stack([x1, y1, x2, y2], axis=1), scores, classes))
        boxes, scores, classes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        if len(found) > 1:
            kept = self._suppress(boxes, scores, classes)
            boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
        labels, names = self.ids[classes], [self.names[k] for k in classes]
        return {"boxes": boxes, "scores": scores, "labels": labels, "names": names}

    def _look(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns boxes (N, 4) in pixels of the image, scores and class indices (N,), of one view."""
        images, sizes = self._prepare(pixels)
        try:
            outputs = self.session.run(None, {"images": images, "sizes": sizes})
        except Exception as error:  # onnxruntime has many
            problem = f"{self.file} and its description do not go together ({_reason(error)}); export the model again"
            raise UnusableFileError(problem) from error
        suppressed, known = len(outputs) > 2, len(self.ids)
        fits = outputs[2].max(initial=-1) < known if suppressed else outputs[1].shape[-1] == known
        if suppressed != self.has_suppression or not fits:
            problem = f"{self.file} has other outputs or classes than its description; export the model again"
            raise UnusableFileError(problem)
        boxes, scores = (output[0] for output in outputs[:2])  # (R, 4); (R,) with suppression, else (R, K)
        if self.has_suppression:
            classes = outputs[2][0]
            kept = np.flatnonzero(classes >= 0).tolist()
        else:
            has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
            row, classes = np.nonzero((scores > self.inference["score_threshold"]) & has_area[:, None])
            boxes, scores = boxes[row], scores[row, classes]
            kept = self._suppress(boxes, scores, classes)
        boxes, scores, classes = boxes[kept], scores[kept], classes[kept]
        height, width = pixels.shape[:2]
        limit = np.array([width, height, width, height])
        return np.clip(boxes.astype(np.float64) * (limit / sizes[0, [1, 0, 1, 0]]), 0, limit), scores, classes

    def _prepare(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Resizes and pads pixels as in training: images (1, 3, H, W) uint8 and sizes (1, 2) int64."""
        h, w = pixels.shape[:2]
        scale = min(self.inference["shorter_side"] / min(h, w), self.inference["longer_side"] / max(h, w))
        height, width = (max(int(side * scale + 0.5), 1) for side in (h, w))
        if (height, width) != (h, w):
            pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
        rows, columns = (-(-side // self.divisor) * self.divisor for side in (height, width))
        images = np.zeros((1, 3, rows, columns), dtype=np.uint8)
        images[0, :, :height, :width] = pixels.transpose(2, 0, 1)
        return images, np.array([[height, width]], dtype=np.int64)

    def _suppress(self, boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> list[int]:
        """Returns the rows of (N, 4), (N,), (N,) that class-wise suppression leaves, best score first."""
        kept: list[int] = []
        left = np.argsort(-scores, kind="stable")
        while len(left) and len(kept) < self.inference["max_detections"]:
            best, left = left[0], left[1:]
            kept.append(int(best))
            overlaps = _iou(boxes[best], boxes[left]) > self.inference["nms_iou"]
            left = left[~(overlaps & (classes[left] == classes[best]))]
        return kept


def _pixels(image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"an array must be (h, w, 3) uint8, not {image.shape} {image.dtype}")
        return image
    if isinstance(image, Image.Image):
        return _upright(image)
    try:
        if _is_special(image):
            raise ValueError("it is a pipe, a socket or a device")
        Image.init()
        with open(image, "rb") as stream, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(stream, formats=[name for name in FORMATS if name in Image.OPEN]) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise ValueError(f"it is {opened.width} x {opened.height} pixels, over {MAX_PIXELS:,}")
                return _upright(opened)
    except Exception as error:  # whatever a damaged file provokes in Pillow
        raise UnusableFileError(f"{image} cannot be read ({_reason(error)}); name a photograph") from error


def _is_whole(value: object, allowed: range) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value in allowed


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _is_special(file: str | Path) -> bool:
    return os.path.exists(file) and not (os.path.isfile(file) or os.path.isdir(file))


def _upright(image: Image.Image) -> np.ndarray:
    """Returns upright pixels (h, w, 3) uint8 RGB as `mimicdet predict` reads them.

    16 bits are scaled over their full range, transparency lies on white, and of several frames the first is taken.
    """
    turn = _turn(image)  # before load(), which makes TIFFs upright and drops their tag
    image.load()
    if not image.width * image.height:
        raise ValueError("it has no pixels")
    if turn is not None:
        image = image.transpose(turn)
    deep = image.mode == "I" or image.mode.startswith("I;16")
    tags = getattr(image, "tag_v2", None) or {}  # of a TIFF; 339 says what numbers are, 262 what 0 stands for
    if not deep and image.mode != "F" and 2 in np.atleast_1d(tags.get(339, 1)):  # Pillow takes them as they are
        raise ValueError("its pixels are signed bytes, which have no fixed range; save it with 8 or 16 bits")
    if image.mode == "F":
        raise ValueError("its pixels are 32-bit floats, which have no fixed range; save it with 8 or 16 bits")
    if deep:
        values = np.asarray(image)
        if values.dtype.itemsize > 2 and (values.min() < 0 or values.max() > 65535):
            raise ValueError("its pixels are integers over 65535; save it with 8 or 16 bits")
        shown = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        if image.mode != "I" and tags.get(262) == 0:  # which Pillow does not turn round as it does 8 bits
            shown = 255 - shown
        if isinstance(clear := image.info.get("transparency"), int):
            shown[values == clear] = 255
        image = Image.fromarray(shown)
    if image.has_transparency_data:
        layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (255, 255, 255, 255)), layer)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _turn(image: Image.Image) -> Image.Transpose | None:
    if getattr(image, "tag_v2", None) is not None:
        return None  # Pillow turns a TIFF itself
    try:
        # Not image.getexif(), which decompresses a PNG in search of it
        return TURNS.get(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except Exception:  # whatever a damaged block provokes; the pixels may be fine
        return None


def _printable(text: str) -> str:
    """Returns text that can neither steer a terminal nor forge another line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Returns the IoU of one box (4,) with each of N (N, 4): (N,)."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    both = np.clip(sides, 0, None).prod(1)
    return both / ((box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(1) - both)


def main(arguments: list[str]) -> int:
    """Runs the command line; returns the exit code, 2 for what the user can mend."""
    if len(arguments) < 2:
        print(__doc__)
        return 2
    try:
        detector = OnnxDetector(arguments[0])
        for file in arguments[1:]:
            found = detector(file)
            boxes, scores = found["boxes"].round(2).tolist(), found["scores"].round(4).tolist()
            labels, names = found["labels"].tolist(), found["names"]
            print(json.dumps({"file": file, "boxes": boxes, "scores": scores, "labels": labels, "names": names}))
    except UnusableFileError as error:
        print(f"error: {_printable(str(error))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
