"""Draws boxes with class names and scores on pictures, and several pictures on one sheet.

N boxes, K classes. Colours, line widths and letters follow the size of the picture and of the boxes, so that a
400-pixel tile and an aerial image with hundreds of objects are both legible.
"""

import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from mimicdet.report.fonts import font_for, legible_names, printable

Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]  # x1 y1 x2 y2

# Okabe and Ito's palette (2008), told apart by colour-blind readers too; black, which halos need, is left out. More
# classes take the same hues lighter, then darker: names stand beside the boxes and in the legend anyway.
_PALETTE = tuple(map(ImageColor.getrgb, ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")))
_WHITE, _BLACK, _PAPER, _INK = (255, 255, 255), (0, 0, 0), (250, 250, 250), (30, 30, 30)

_SMALLEST_PICTURE = 600
"""Pictures with a longer side under this many pixels are enlarged, for letters do not shrink with the image."""
_MARK = "drawn by mimicdet"
_LONGEST_NAME, _LONGEST_TITLE = 60, 200
"""Letters of a class name and of a line of a title; thousands would take seconds to measure."""
_CROWDED = 40
"""From this many boxes on, captions are the score alone and no wider than their box; the legend names the colours."""


@dataclass(frozen=True)
class _Caption:
    box: Rectangle
    texts: tuple[str, ...]  # preferred first
    color: Color


def class_color(label: int) -> Color:
    """Returns the colour of class index ``label`` (0, 1, ...): red, green, blue in 0..255."""
    red, green, blue = _PALETTE[label % len(_PALETTE)][:3]
    if (shade := label // len(_PALETTE) % 3) == 0:
        return red, green, blue
    target = 255 if shade == 1 else 0
    return round((red + target) / 2), round((green + target) / 2), round((blue + target) / 2)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    *,
    class_names: Sequence[str],
    scores: np.ndarray | None = None,
    truth_boxes: np.ndarray | None = None,
    truth_labels: np.ndarray | None = None,
    legend: bool = True,
) -> Image.Image:
    """Returns a picture of an image with boxes drawn on it.

    Args:
        image: (h, w, 3) uint8 RGB.
        boxes: (N, 4) x1 y1 x2 y2 in its pixels, drawn as solid lines; the best scores lie on top.
        labels: (N,) class index 0..K-1 into ``class_names``, not category ids.
        scores: (N,) in 0..1, written behind the names.
        truth_boxes, truth_labels: the objects themselves, drawn dashed and without captions.
        legend: add a strip below that names the colours and counts the boxes.

    Captions that would cover one another are shortened to the score, then left out; with very many boxes all are.
    Of a name the first 60 letters are drawn. One that no font here has is drawn as ``#`` and its number from 1, see
    ``mimicdet.report.fonts``.
    """
    class_names = [_cut(name, _LONGEST_NAME) for name in legible_names(class_names)]
    scale = max(1, math.ceil(_SMALLEST_PICTURE / max(image.shape[:2])))
    picture = Image.fromarray(np.ascontiguousarray(image))
    if scale > 1:
        picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.LANCZOS)
    boxes = _to_picture(boxes, scale, picture)
    labels = np.asarray(labels, dtype=np.int64)
    order = np.arange(len(boxes)) if scores is None else np.argsort(np.asarray(scores), kind="stable")
    line, letters = _sizes(picture, boxes)
    draw = ImageDraw.Draw(picture)

    truth_labels = np.zeros(0, np.int64) if truth_labels is None else np.asarray(truth_labels, dtype=np.int64)
    if truth_boxes is not None:
        for box, label in zip(_to_picture(truth_boxes, scale, picture), truth_labels, strict=True):
            _dashed_rectangle(draw, box.tolist(), class_color(int(label)), line)
    captions = []
    crowded = legend and len(boxes) >= _CROWDED
    for i in order.tolist():
        label, box = int(labels[i]), tuple(boxes[i].tolist())
        _rectangle(draw, box, class_color(label), line)
        texts = _texts(class_names[label], None if scores is None else float(scores[i]), crowded=crowded)
        captions.append(_Caption(box, texts, class_color(label)))
    _draw_captions(picture, reversed(captions), letters, widest=1.0 if crowded else 3.0)
    if legend:
        return _with_legend(picture, class_names, labels.tolist(), truth_labels.tolist())
    return picture


def encoded(picture: Image.Image, form: Literal["JPEG", "PNG"]) -> bytes:
    """Returns a picture as a file's bytes, which :func:`is_drawn` knows again."""
    buffer = io.BytesIO()
    if form == "JPEG":  # chroma subsampling blurs thin coloured lines
        picture.save(buffer, format="jpeg", quality=92, subsampling=0, comment=_MARK)
    else:
        about = PngInfo()
        about.add_text("Comment", _MARK)
        picture.save(buffer, format="png", pnginfo=about)
    return buffer.getvalue()


def is_drawn(file: Path) -> bool:
    """Says whether a file is a picture that :func:`encoded` made."""
    try:
        with open(file, "rb") as stream:
            return _MARK.encode() in stream.read(256)
    except (OSError, ValueError):  # whoever reads it says what is wrong
        return False


def contact_sheet(
    pictures: Sequence[Image.Image], *, titles: Sequence[str] = (), columns: int | None = None, cell: int = 640
) -> Image.Image:
    """Puts several pictures on one sheet, row by row, each fitted into a square cell, with a title above each.

    Args:
        pictures: one or more; of any sizes.
        titles: none, or one for each picture; of several lines, and cut off where they are wider than a cell.
        columns: of the sheet; None makes it about as wide as high, four at most.
        cell: its side in pixels.
    """
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    if titles and len(titles) != len(pictures):
        raise ValueError(f"{len(pictures)} pictures need as many titles, not {len(titles)}")
    columns = min(columns or min(4, math.ceil(math.sqrt(len(pictures)))), len(pictures))
    gap, line_height = 16, 34
    title_height = line_height * max((title.count("\n") + 1 for title in titles), default=0)
    fitted = [_fit(picture, cell) for picture in pictures]
    rows = [fitted[i : i + columns] for i in range(0, len(fitted), columns)]
    heights = [title_height + max(picture.height for picture in row) for row in rows]
    sheet = Image.new("RGB", (gap + columns * (cell + gap), gap + sum(h + gap for h in heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    top, lines = gap, iter(title.split("\n") for title in titles)
    for row, height in zip(rows, heights, strict=True):
        for left, picture in zip(range(gap, sheet.width, cell + gap), row, strict=False):
            for i, title in enumerate(next(lines, ())):
                place = left, top + line_height * (i + 0.5)
                title = _cut(printable(title), _LONGEST_TITLE)
                font = font_for(title, 20)
                draw.text(place, _shortened(title, font, cell), font=font, fill=_INK, anchor="lm")
            sheet.paste(picture, (left, top + title_height))
        top += height + gap
    return sheet


def _to_picture(boxes: np.ndarray, scale: int, picture: Image.Image) -> np.ndarray:
    return (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * scale).clip(0, [*picture.size, *picture.size])


def _sizes(picture: Image.Image, boxes: np.ndarray) -> tuple[int, int]:
    """Returns line width and letter height in pixels: by the picture, but less where the boxes are small."""
    longer = max(picture.size)
    line, letters = max(longer / 400, 2), max(longer / 55, 13)
    if len(boxes):
        side = float(np.median(np.sqrt(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 1), axis=1))))
        line, letters = min(line, side / 15), min(letters, max(side / 3.5, 11))
    return max(1, round(line)), round(letters)


def _texts(name: str, score: float | None, *, crowded: bool) -> tuple[str, ...]:
    if score is None:
        return () if crowded else (name,)
    return (f"{score:.2f}",) if crowded else (f"{name} {score:.2f}", f"{score:.2f}")


def _rectangle(draw: ImageDraw.ImageDraw, box: Sequence[float], color: Color, line: int) -> None:
    """Draws a coloured frame with a dark hairline around it, to stand out on light ground and dark."""
    x1, y1, x2, y2 = (round(value) for value in box)
    x2, y2 = max(x2 - 1, x1), max(y2 - 1, y1)
    hair = 1 if line < 5 else 2
    if line > 1:
        draw.rectangle((x1 - hair, y1 - hair, x2 + hair, y2 + hair), outline=_BLACK, width=hair)
    draw.rectangle((x1, y1, x2, y2), outline=color, width=line)


def _dashed_rectangle(draw: ImageDraw.ImageDraw, box: Sequence[float], color: Color, line: int) -> None:
    """Draws white dashes, their gaps filled with the colour of the class."""
    x1, y1, x2, y2 = box
    dash = max(4, 4 * line)
    for (ax, ay), (bx, by) in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
        length = math.hypot(bx - ax, by - ay)
        draw.line((ax, ay, bx, by), fill=color, width=line)
        for start in np.arange(0, length, 2 * dash).tolist():
            p, q = start / length, min(start + dash, length) / length
            ends = ax + p * (bx - ax), ay + p * (by - ay), ax + q * (bx - ax), ay + q * (by - ay)
            draw.line(ends, fill=_WHITE, width=line)


def _draw_captions(picture: Image.Image, captions: Iterable[_Caption], letters: int, *, widest: float) -> None:
    """Draws captions in the order given, each where it covers none before it, within the picture.

    None is wider than ``widest`` times its box: it would seem to belong to the neighbours.
    """
    draw, pad = ImageDraw.Draw(picture), max(2, round(letters / 6))
    height = sum(_font(letters).getmetrics())
    taken = _Occupied(cell=4 * height)
    for caption in captions:
        x1, y1, x2, y2 = caption.box
        for text in caption.texts:
            font = font_for(text, letters)
            width = font.getlength(text) + 2 * pad
            # Above the box, inside its top, below it; from its left edge, then to its right edge.
            spots = [(x, y) for y in (y1 - height, y1, y2) for x in (x1, x2 - width)]
            if width > widest * max(x2 - x1, height):
                continue
            places = (_inside(x, y, width, height, picture.size) for x, y in spots)
            place = next((r for r in places if r is not None and taken.free(r)), None)
            if place is not None:
                taken.add(place)
                draw.rectangle(place, fill=caption.color)
                ink = _BLACK if _luminance(caption.color) > 0.36 else _WHITE
                draw.text((place[0] + pad, place[1]), text, font=font, fill=ink)
                break


def _inside(x: float, y: float, width: float, height: float, size: tuple[int, int]) -> Rectangle | None:
    """Moves a rectangle sideways into the picture; None where it does not fit or would stick out above or below."""
    x, y = min(max(x, 0), size[0] - width), round(y)
    return None if x < 0 or y < 0 or y + height > size[1] else (x, y, x + width, y + height)


class _Occupied:
    """Rectangles of a picture that are taken, in a coarse grid so that hundreds are placed quickly."""

    def __init__(self, cell: int) -> None:
        self.cell = cell
        self.cells: dict[tuple[int, int], list[Rectangle]] = {}

    def _touched(self, r: Rectangle) -> Iterable[tuple[int, int]]:
        x1, y1, x2, y2 = (int(value // self.cell) for value in r)
        return product(range(x1, x2 + 1), range(y1, y2 + 1))

    def free(self, r: Rectangle) -> bool:
        others = (o for key in self._touched(r) for o in self.cells.get(key, ()))
        return not any(r[0] < o[2] and o[0] < r[2] and r[1] < o[3] and o[1] < r[3] for o in others)

    def add(self, r: Rectangle) -> None:
        for key in self._touched(r):
            self.cells.setdefault(key, []).append(r)


def _with_legend(
    picture: Image.Image, class_names: Sequence[str], labels: Sequence[int], truth_labels: Sequence[int]
) -> Image.Image:
    found, true = Counter(labels), Counter(truth_labels)
    letters = max(14, round(picture.width / 60))
    gap = letters
    entries: list[tuple[Color | None, str]] = []
    for label in sorted(set(found) | set(true)):
        count = f"{found[label]} ({true[label]} true)" if true else f"{found[label]}"
        entries.append((class_color(label), f"{class_names[label]}  {count}"))
    if true:
        entries.append((None, "dashed: ground truth"))
    lines: list[list[tuple[Color | None, str, float]]] = [[]]
    x = float(gap)
    for color, text in entries or [(None, "nothing found")]:
        swatch, font = 1.5 * letters if color else 0.0, font_for(text, letters)
        text = _shortened(text, font, picture.width - 2 * gap - swatch)
        width = swatch + font.getlength(text)
        if lines[-1] and x + width > picture.width - gap:
            lines.append([])
            x = float(gap)
        lines[-1].append((color, text, x))
        x += width + 1.5 * gap
    row = round(1.7 * letters)
    result = Image.new("RGB", (picture.width, picture.height + row * len(lines) + gap // 2), _PAPER)
    result.paste(picture, (0, 0))
    draw = ImageDraw.Draw(result)
    for i, entries_of_line in enumerate(lines):
        middle = picture.height + gap // 4 + row * i + row / 2
        for color, text, x in entries_of_line:
            if color:
                draw.rectangle((x, middle - letters / 2, x + letters, middle + letters / 2), fill=color, outline=_INK)
                x += 1.5 * letters
            draw.text((x, middle), text, font=font_for(text, letters), fill=_INK, anchor="lm")
    return result


def _luminance(color: Color) -> float:
    """Returns relative luminance, 0 black to 1 white (WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _fit(picture: Image.Image, side: int) -> Image.Image:
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _shortened(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    if font.getlength(text) <= width:
        return text
    keep = next((n for n in range(len(text) - 1, 0, -1) if font.getlength(text[:n] + "…") <= width), 0)
    return text[:keep] + "…"


def _font(size: int) -> ImageFont.FreeTypeFont:
    return font_for("", size)
