"""Finds fonts that have the letters of a text: DejaVu Sans, which comes with matplotlib, or one of the system's."""

import unicodedata
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

_DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
_PLAINEST = ("mono", "serif", "italic", "oblique", "bold", "black", "light", "thin", "condensed")
"""Fonts with these words in their names are taken last."""
_NO_LETTERS = {"Cc", "Cs", "Zl", "Zp"}
"""Kinds of characters that cannot be drawn, by their Unicode category: control codes, halves of pairs, breaks."""


@lru_cache(maxsize=64)
def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Returns a font for a text, no higher than DejaVu Sans of that size, which it is where no font has all letters."""
    usual = ImageFont.truetype(_DEJAVU, size)
    file = _file_for(text) or _DEJAVU
    if file == _DEJAVU:
        return usual
    font = ImageFont.truetype(file, size)
    while size > 1 and sum(font.getmetrics()) > sum(usual.getmetrics()):
        size -= 1
        font = ImageFont.truetype(file, size)
    return font


def legible_names(names: Sequence[str]) -> list[str]:
    """Returns the names as they can be drawn: ``#`` and the number from 1 in place of one that no font has."""
    return [f"#{number}" if _file_for(name) is None else name for number, name in enumerate(names, start=1)]


def numbered_names(names: Sequence[str]) -> str:
    """Returns a line with number and name for each of the names that is drawn as a number."""
    pairs = zip(legible_names(names), names, strict=True)
    return "".join(f"{shown} {' '.join(name.split())}\n" for shown, name in pairs if shown != name)


def printable(text: str) -> str:
    """Returns a line of text with a question mark for each character that cannot be drawn, such as a control code."""
    return "".join("?" if unicodedata.category(letter) in _NO_LETTERS else letter for letter in text)


@lru_cache(maxsize=4096)
def _file_for(text: str) -> Path | None:
    """Returns the file of a font that has all letters; None where there is none, or they are no letters at all."""
    # Of the kind Cf are marks without a glyph, such as joiners
    kinds = {letter: unicodedata.category(letter) for letter in text}
    if not text.strip() or not _NO_LETTERS.isdisjoint(kinds.values()):
        return None
    letters = frozenset(letter for letter, kind in kinds.items() if kind != "Cf")
    if _has(_DEJAVU, letters):
        return _DEJAVU
    return next((file for file in _system_fonts() if _has(file, letters)), None)


def _has(file: Path, letters: frozenset[str]) -> bool:
    try:
        font = FT2Font(str(file))
        return all(font.get_char_index(ord(letter)) for letter in letters) and bool(ImageFont.truetype(file, 20))
    except Exception:  # a broken font, or one of pictures
        return False


@cache
def _system_fonts() -> tuple[Path, ...]:
    def rank(file: Path) -> tuple[int, str]:
        return sum(word in file.name.casefold() for word in _PLAINEST), str(file)

    files = (Path(file) for file in font_manager.findSystemFonts())
    return tuple(sorted((file for file in files if "lastresort" not in file.name.casefold()), key=rank))
