"""Writes docs/settings.md, every setting with its meaning, from the code: python docs/make_settings.py"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from mimicdet.config import Settings
from mimicdet.settings_file import FIELDS, load_settings

PAGE = Path(__file__).parent / "settings.md"
PRESETS = ("paper_r50_1x", "small")


def page() -> str:
    """The page as Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield "Made by `python docs/make_settings.py`. In a YAML file these are sections and keys; on a command line"
    yield "`--section.key value`. The values of two presets stand beside the defaults; `mimicdet presets NAME` shows"
    yield "a preset in full."
    presets = [load_settings(preset=name) for name in PRESETS]
    for section, names in groupby(FIELDS, key=lambda name: name.rpartition(".")[0]):
        yield f"\n## {section or 'task'}\n"
        if section:
            yield " ".join((Settings.model_fields[section].annotation.__doc__ or "").split()) + "\n"
        yield _row(["key", "meaning", "values", "default", *PRESETS])
        yield _row(["---"] * (4 + len(PRESETS)))
        for name in names:
            info = FIELDS[name]
            values = [_text(_value(settings, name)) for settings in (Settings(), *presets)]
            yield _row([f"`{name}`", " ".join((info.description or "").split()), _values(info), *values])
    yield ""


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(settings: Settings, name: str) -> Any:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _text(value: Any) -> str:
    value = list(value) if isinstance(value, tuple) else value
    return "`" + yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...") + "`"


def _values(info: FieldInfo) -> str:
    """What a setting takes, in words: its type and its limits."""
    kind = info.annotation
    prefix = ""
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
        prefix = "list: "
    if choices := [choice for choice in get_args(kind) if isinstance(choice, str | int)]:
        return prefix + ", ".join(f"`{choice}`" for choice in choices)
    names = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}
    limits = []
    for limit in info.metadata:
        for attribute, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤")):
            if (bound := getattr(limit, attribute, None)) is not None:
                limits.append(f"{sign} {bound}")
    return prefix + " ".join([names.get(kind, "number" if prefix else str(kind)), ", ".join(limits)]).strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
