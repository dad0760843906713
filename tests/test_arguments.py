"""Arguments of a wrong type are one sentence, whatever they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from mimicdet.arguments import checked
from mimicdet.config import DataSettings, InferenceSettings, MimicDetSettings
from mimicdet.errors import UserError


class Returns(PathLike[Any]):
    """A path of a user's own, right or wrong."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __fspath__(self) -> Any:
        if self.value is None:
            raise ValueError("no path today")
        return self.value


class Unwritable:
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("never")


WRONG = InferenceSettings().model_copy(update={"shorter_side": "x"})
WHOLE = MimicDetSettings().model_copy(update={"data": None})
TOGETHER = MimicDetSettings().model_copy(
    update={"model": MimicDetSettings.Model().model_copy(update={"levels": (3, 5)})}
)


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
    settings: InferenceSettings | MimicDetSettings | None = None,
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
        {"anything": "x" * 10_000},
        {"word": "b", "path": Returns("x" * 255)},
        {"settings": InferenceSettings(shorter_side=64)},
        {"settings": MimicDetSettings().model_copy(update={"data": DataSettings(shorter_side=(64,))})},
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
        ({"path": ""}, "example: path is empty"),
        ({"path": "\ud800"}, "example: path must be a path, not '\\ud800'"),
        ({"path": "x" * 10_000}, "example: path is too long"),
        ({"path": Path("x" * 300, "y")}, "example: path is too long"),
        ({"path": Returns(b"x")}, "example: path must be a path"),
        ({"path": Returns(5)}, "example: path must be a path"),
        ({"path": Returns("a\0b")}, "path holds a null character"),
        ({"path": Returns(None)}, "example: path must be a path"),
        ({"number": Unwritable()}, "number must be int, not something that cannot be written out"),
        ({"word": 10**5000}, "word must be 'a' or 'b', not something that cannot be written out, of type int"),
        ({"settings": WRONG}, "example: settings holds a wrong value: shorter_side: input should be a valid integer"),
        ({"settings": WHOLE}, "holds a wrong value: data: input should be a valid"),
        ({"settings": TOGETHER}, "holds a wrong value: model.levels must be consecutive"),
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
