"""Refuses arguments of a wrong type, at the functions that users call from Python."""

import errno
import os
import types
from collections.abc import Callable
from functools import cache, wraps
from inspect import signature
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ValidationError

from mimicdet.errors import UserError, one_line, writing

P = ParamSpec("P")
R = TypeVar("R")


def checked(*, but: tuple[str, ...] = ()) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a function so that wrong arguments are a UserError, by the types that it states.

    Paths must be such as can be looked for, and settings are validated again, for they may have been copied with
    changes. ``but`` names the arguments that the function looks at itself. What a container holds is not looked at.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        shape, hints = signature(function), cache(lambda: get_type_hints(function, include_extras=True))

        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                given = shape.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise UserError(f"{function.__name__}: {error}") from None
            looked_at = {name: hint for name, hint in hints().items() if name in given and name not in but}
            for name, value in given.items():
                if isinstance(value, str) and "\0" in value:
                    raise UserError(f"{function.__name__}: {name} holds a null character, which no name or path has")
                if name in looked_at and not _fits(value, looked_at[name]):
                    problem = f"{name} must be {_words(looked_at[name])}, not {writing(value)}"
                    raise UserError(f"{function.__name__}: {problem} ({type(value).__name__})")
            for name, hint in looked_at.items():
                value = given[name]
                if isinstance(value, str | PathLike) and hint is not Any and _fits(Path(), hint):
                    path_of(value, f"{function.__name__}: {name}")
                elif isinstance(value, BaseModel):
                    require_valid(value, f"{function.__name__}: {name}")
            return function(*args, **kwargs)

        return wrapper

    return decorate


def path_of(value: str | PathLike[str], name: str) -> Path:
    """Returns a path as users give it; UserError, which calls it ``name``, for one that no file can have."""
    try:
        path = Path(value)
        os.fsencode(path)
    except Exception as error:  # halves of characters, a class of the user's that returns bytes or raises anything
        raise UserError(f"{name} must be a path, not {writing(value)} ({one_line(error)})") from error
    if not isinstance(value, Path) and not os.fspath(value):
        raise UserError(f"{name} is empty, which is no path; write . for the folder at hand")
    if "\0" in str(path):
        raise UserError(f"{name} holds a null character, which no name or path has")
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{path}: {name} is too long, or a name in it is; choose a shorter one") from error
    return path


def require_valid(settings: BaseModel, name: str) -> None:
    """Raises UserError, which calls them ``name``, for settings that were changed to what they may not be."""
    try:
        type(settings).model_validate(settings.model_dump(warnings=False))
    except ValidationError as error:
        raise UserError(f"{name} holds a wrong value: {first_fault(error)}") from error


def first_fault(error: ValidationError) -> str:
    """Returns the first of what pydantic finds, which it lists over several lines, with the name of the setting."""
    first = error.errors(include_url=False)[0]
    problem = str(first["msg"]).removeprefix("Value error, ")
    if not first["loc"] or (first["type"] == "value_error" and isinstance(first["input"], dict)):
        # Several settings that do not go together, or a section's own rule; the message names them
        return problem
    return f"{'.'.join(map(str, first['loc']))}: {problem[0].lower()}{problem[1:]}, not {writing(first['input'])}"


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
