"""Names in any script are drawn with letters that exist, or as numbers that a list explains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given, settings
from hypothesis import strategies as st

from mimicdet.report import fonts
from mimicdet.report.draw import contact_sheet, draw_boxes
from mimicdet.report.fonts import font_for, legible_names, numbered_names

NAMES = ("cat", "图像", "собака", "猫", "line\nbreak", "\ud800", " ")


def make_font(file: Path, letters: str) -> None:
    """Writes a font in which each letter is a filled square."""
    names = [".notdef", *(f"letter{i}" for i in range(len(letters)))]
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(letter): name for letter, name in zip(letters, names[1:], strict=True)})
    builder.setupGlyf(dict.fromkeys(names, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(names, (1000, 0)))
    builder.setupHorizontalHeader(ascent=1600, descent=-400)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(file)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The system's font files, none at first."""
    files: list[str] = []
    monkeypatch.setattr(fonts.font_manager, "findSystemFonts", lambda: files)
    caches = (fonts._system_fonts, fonts._file_for, fonts.font_for)
    for cached in caches:
        cached.cache_clear()
    yield files
    for cached in caches:
        cached.cache_clear()


def test_without_a_font_names_are_numbered(system: list[str]) -> None:
    assert legible_names(NAMES) == ["cat", "#2", "собака", "#4", "#5", "#6", "#7"]
    assert numbered_names(NAMES) == "#2 图像\n#4 猫\n#5 line break\n#6 \ud800\n#7 \n"
    assert numbered_names(("cat", "собака")) == ""


def test_a_font_of_the_system_is_taken_that_has_all_letters(system: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    make_font(tmp_path / "squares-bold.ttf", "图像猫")
    make_font(tmp_path / "squares.ttf", "图像")
    system += [str(tmp_path / name) for name in ("broken.ttf", "squares-bold.ttf", "squares.ttf")]
    assert legible_names(NAMES)[:4] == ["cat", "图像", "собака", "猫"]
    assert Path(font_for("图像", 20).path).name == "squares.ttf", "the plainest"
    assert Path(font_for("猫", 20).path).name == "squares-bold.ttf"
    assert Path(font_for("cat", 20).path).name == "DejaVuSans.ttf"
    assert sum(font_for("图像", 20).getmetrics()) <= sum(font_for("cat", 20).getmetrics()), "it fits into the caption"
    assert bytes(font_for("图", 20).getmask("图")) != bytes(font_for("cat", 20).getmask("\U0010ffff"))


def test_pictures_show_the_letters_or_the_number(system: list[str], tmp_path: Path) -> None:
    image, boxes = np.full((200, 300, 3), 128, np.uint8), np.array([[50, 80, 250, 180]])

    def drawn(name: str) -> bytes:
        return draw_boxes(image, boxes, np.array([0]), class_names=[name], scores=np.array([0.5])).tobytes()

    assert drawn("图像") == drawn("#1"), "a number where there is no font"
    make_font(tmp_path / "squares.ttf", "图像0123456789. ")
    system.append(str(tmp_path / "squares.ttf"))
    fonts._system_fonts.cache_clear()
    fonts._file_for.cache_clear()
    fonts.font_for.cache_clear()
    assert drawn("图像") != drawn("#1")


@settings(max_examples=25, deadline=None)
@given(st.text(max_size=12))
def test_any_name_can_be_drawn(name: str) -> None:
    image = np.full((60, 90, 3), 128, np.uint8)
    draw_boxes(image, np.array([[5, 5, 50, 50]]), np.array([0]), class_names=[name])
    contact_sheet([draw_boxes(image, np.zeros((0, 4)), np.zeros(0), class_names=[])], titles=[name], cell=50)
