"""Foreign text in messages: one line that neither steers a terminal nor forges another."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mimicdet.errors import FOREIGN, MESSAGE, UserError, message, near_path, nearest, one_line

ANYTHING = st.text(st.characters(exclude_categories=()))  # surrogates too


@given(ANYTHING, st.integers(20, 90))
@example("\x1b[2J\x1b[1;1Herror: none", 80)
@example("gpj.\u202egnp\u2066", 80)
@example("\ud800.png\r\nerrors: none\x85\u2028", 80)
@example("\udcff" * 500, 80)
def test_one_line_is_printable_and_short(text: str, most: int) -> None:
    line = one_line(text, most)
    assert line.isprintable()
    assert len(line) <= most
    line.encode()
    assert one_line(line, most) == line
    if text.isprintable() and len(text) <= most:
        assert line == text


@given(ANYTHING)
def test_a_message_has_no_long_word(text: str) -> None:
    told = message(text)
    assert told.isprintable()
    assert len(told) <= MESSAGE
    assert all(len(word) <= FOREIGN for word in told.replace("/", " ").split())
    assert message(told) == told


def test_what_is_escaped_can_be_told() -> None:
    assert one_line("a\x1b[2J\n\u202eb\ud800 細胞") == r"a\x1b[2J\n\u202eb\ud800 細胞"
    text = one_line("head" + "x" * 10**6 + "tail")
    assert len(text) == FOREIGN
    assert text.startswith("headxx")
    assert text.endswith("xxtail")
    assert " ... " in text


def test_a_user_error_is_one_line_whatever_is_in_it() -> None:
    error = UserError("a\x1b[2J.png: is\nno image")
    assert str(error) == r"a\x1b[2J.png: is\nno image"
    assert len(str(UserError("y " * 9999))) == MESSAGE
    assert str(UserError(f"/{'d' * 70}/{'n' * 5000}: no")) == f"/{'d' * 70}/{one_line('n' * 5000 + ':')} no"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (UserError, str(error))


@pytest.mark.parametrize(("wrong", "right"), [("Fsih", "fish"), ("boat", None), ("", None)])
def test_nearest(wrong: str, right: str | None) -> None:
    assert nearest(wrong, ["fish", "shark"]) == right


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("cells/0.PNG", "cells/0.png"),
        ("CELLS/0.png", "cells/0.png"),
        ("cells/Train", "cells/train"),
        ("cells/trian", "cells/train"),
        ("cells/1.png", None),  # another of the series is no misspelling
        ("CELLS/none.png", None),
        ("cells/wheels", None),
        ("nowhere/at/all", None),
        ("cells", None),  # it is there
        ("cells/0.png/x", None),
        ("", None),
    ],
)
def test_the_nearest_path_is_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, found: str | None
) -> None:
    (tmp_path / "cells" / "train").mkdir(parents=True)
    (tmp_path / "cells" / "0.png").touch()
    monkeypatch.chdir(tmp_path)
    for place in (Path(), tmp_path):
        assert near_path(place / asked) == ("" if found is None else f" (did you mean {place / found}?)")
