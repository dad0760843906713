"""``--section.key value`` on a command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, get_origin

from mimicdet.errors import UserError
from mimicdet.settings_file import FIELDS, SECTIONS, Layer, parse_yaml, suggestion

COMMAND_LINE = "on the command line"


def take_overrides(arguments: Sequence[str]) -> tuple[Layer, list[str]]:
    """Split ``--section.key value`` off a command line.

    A setting takes one value, a list takes all values up to the next option (``--data.shorter_side 640 800``) and
    a switch may stand alone (``--assign.ensure_match`` is true). ``--key=value`` works too, ``-`` and ``_`` in a
    name are the same.

    Returns:
        The settings, and the arguments that are none.
    """
    values: dict[str, Any] = {}
    rest: list[str] = []
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        option, equals, attached = argument.partition("=")
        name = option.removeprefix("--").replace("-", "_")
        if not option.startswith("--") or not ("." in name or name in FIELDS or name in SECTIONS):
            rest.append(argument)
            continue
        if name in SECTIONS:
            raise UserError(f"'--{name}' is a section of settings: name a key of it, such as --{_first_key(name)}")
        if name not in FIELDS:
            raise UserError(f"unknown setting '--{name}'; {suggestion(name).replace(chr(39), chr(39) + '--', 1)}")
        if equals:
            words = [attached]
        else:
            words = _values_of(name, arguments[position:])
            position += len(words)
        values[name] = _typed(name, words, attached=bool(equals))
    return Layer(COMMAND_LINE, values), rest


def _first_key(section: str) -> str:
    return next(name for name in FIELDS if name.startswith(section + "."))


def _is_option(word: str) -> bool:
    return word.startswith("-") and re.match(r"-[0-9.]", word) is None


def _values_of(name: str, following: Sequence[str]) -> list[str]:
    """The words behind ``--name`` that belong to it."""
    annotation = FIELDS[name].annotation
    words: list[str] = []
    if annotation is bool:
        if following and following[0].lower() in ("true", "false"):
            words = [following[0]]
    else:
        limit = len(following) if get_origin(annotation) is tuple else 1
        for word in following[:limit]:
            if _is_option(word):
                break
            words.append(word)
        if not words:
            raise UserError(f"--{name} needs a value")
    return words


def _typed(name: str, words: list[str], *, attached: bool) -> Any:
    """Words of the command line as the value that YAML would give."""
    annotation = FIELDS[name].annotation
    if annotation is bool and not words:
        return True
    if get_origin(annotation) is tuple:
        if len(words) == 1 and (words[0].startswith("[") or (attached and "," in words[0])):
            text = words[0] if words[0].startswith("[") else f"[{words[0]}]"
            return parse_yaml(text, f"--{name}")
        return [_scalar(word) for word in words]
    if annotation is str:
        return words[0]
    return _scalar(words[0])


def _scalar(word: str) -> Any:
    """A number or switch as such, all else as text."""
    if re.fullmatch(r"true|false", word, re.IGNORECASE):
        return word.lower() == "true"
    for number in (int, float):
        try:
            return number(word)
        except ValueError:
            continue
    return word
