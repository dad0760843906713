"""Refuses arguments of a wrong type, at the functions that users call from Python."""

import types
from collections.abc import Callable
from functools import cache, wraps
from inspect import signature
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from mimicdet.errors import UserError

P = ParamSpec("P")
R = TypeVar("R")


def checked(*, but: tuple[str, ...] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a function so that wrong arguments are a UserError, by the types that it states.

    ``but`` names the arguments that the function looks at itself. What a container holds is not looked at.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        shape, hints = signature(function), cache(lambda: get_type_hints(function, include_extras=True))

        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given = shape.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise UserError(f"{function.__name__}: {error}") from None
            for name, value in given.items():
                if isinstance(value, str | PathLike) and "\0" in str(value):
                    raise UserError(f"{function.__name__}: {name} holds a null character, which no name or path has")
                if name in hints() and name not in but and not _fits(value, hints()[name]):
                    problem = f"{name} must be {_words(hints()[name])}, not {repr(value)[:80]!s}"
                    raise UserError(f"{function.__name__}: {problem} ({type(value).__name__})")
            return function(*args, **kwargs)

        return wrapper

    return decorate


def _fits(value: object, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin is Annotated:
        return _fits(value, parts[0])
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    kind = origin or hint
    if kind is Path:
        kind = PathLike
    return not isinstance(kind, type) or isinstance(value, kind)


def _words(hint: Any) -> str:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _words(parts[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_words, parts)))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if hint is types.NoneType:
        return "None"
    return str(getattr(origin or hint, "__name__", hint))
