"""Arguments of a wrong type are one sentence, whatever they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from mimicdet.arguments import checked
from mimicdet.errors import UserError


@checked(but=("free",))
def example(
    path: str | Path = "",
    number: int = 1,
    share: float = 0.5,
    word: Literal["a", "b"] = "a",
    many: Iterable[str] = (),
    table: Mapping[str, int] | None = None,
    yes: bool = False,
    marked: Annotated[int, "of something"] = 1,
    free: int = 1,
    anything: Any = None,
) -> str:
    """Says hello."""
    return "hello"


@pytest.mark.parametrize(
    "given",
    [
        {"path": "x"},
        {"path": Path("x")},
        {"number": np.int64(3)},
        {"share": 1},
        {"share": np.float32(0.5)},
        {"word": "b"},
        {"many": iter("ab")},
        {"table": {"x": 1}},
        {"table": None},
        {"yes": True},
        {"marked": 2},
        {"free": "no number"},
        {"anything": object()},
    ],
)
def test_right_arguments_pass(given: dict[str, Any]) -> None:
    assert example(**given) == "hello"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"path": None}, "example: path must be str or Path, not None (NoneType)"),
        ({"path": "a\0b"}, "path holds a null character"),
        ({"path": b"x"}, "path must be str or Path, not b'x' (bytes)"),
        ({"number": 1.0}, "number must be int, not 1.0 (float)"),
        ({"number": True}, "number must be int, not True (bool)"),
        ({"share": "0.5"}, "share must be float"),
        ({"word": "c"}, "word must be 'a' or 'b', not 'c'"),
        ({"word": ["a"]}, "word must be 'a' or 'b'"),
        ({"many": 5}, "many must be Iterable"),
        ({"table": [1]}, "table must be Mapping or None"),
        ({"yes": 1}, "yes must be bool"),
        ({"marked": "x"}, "marked must be int"),
        ({"other": 1}, "example: got an unexpected keyword argument 'other'"),
        ({"path": "x" * 500, "number": "y\n" * 500}, "number must be int"),
    ],
)
def test_wrong_arguments_are_a_sentence(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as found:
        example(**given)
    assert message in str(found.value)
    assert "\n" not in str(found.value)
    assert len(str(found.value)) < 200


def test_the_function_keeps_its_name_and_words() -> None:
    assert (example.__name__, example.__doc__) == ("example", "Says hello.")
