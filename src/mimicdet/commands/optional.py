"""How options that need not be given are declared."""

from __future__ import annotations

from typing import Any

from tyro.conf import arg


def optional(metavar: str, kind: type[Any], *, default: str = "") -> Any:
    """For ``Annotated[int | None, optional("N", int)] = None``: the help shows no "None", and "None" is no value.

    Args:
        metavar: what the help calls the value.
        kind: makes it from a word.
        default: what the help says of the default, if anything.
    """
    return arg(metavar=metavar, constructor=kind, help_behavior_hint=f"(default: {default})" if default else "")
