"""Writes docs/settings.md, every setting with its meaning, from the code: python docs/make_settings.py"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo

from mimicdet.config import SETTINGS_OF, Settings, fields_of
from mimicdet.settings_file import FIELDS, SECTIONS, load_settings

PAGE = Path(__file__).parent / "settings.md"
PRESETS = ("paper_r50_1x", "small")


def page() -> str:
    """Returns the page as Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield "Made by `python docs/make_settings.py`. In a YAML file these are sections and keys; on a command line"
    yield "`--section.key value`. Each family of detectors (`model.family`) has settings of its own and takes no other."
    yield "The values of two presets stand beside the defaults; `mimicdet presets NAME` shows a preset in full."
    yield "[Which setting for which case](which_setting.md) begins at the other end."
    presets = [load_settings(preset=name) for name in PRESETS]
    for section in ("", *SECTIONS):
        yield f"\n## {section or 'task'}\n"
        if section:
            sections = [cls.model_fields[section] for cls in SETTINGS_OF.values() if section in cls.model_fields]
            yield " ".join(" ".join(dict.fromkeys(info.annotation.__doc__ for info in sections)).split()) + "\n"
        yield _row(["key", "meaning", "read by", "values", "default", *PRESETS])
        yield _row(["---"] * (5 + len(PRESETS)))
        for name in (name for name in FIELDS if name.rpartition(".")[0] == section):
            for info, families in _variants(name):
                values = [
                    _text(_value(settings, name)) if settings.model.family in families else "" for settings in presets
                ]
                readers = "all" if len(families) == len(SETTINGS_OF) else ", ".join(families)
                meaning = " ".join((info.description or "").split())
                yield _row([f"`{name}`", meaning, readers, _values(name, info), _text(info.default), *values])
    yield ""


def _variants(name: str) -> list[tuple[FieldInfo, list[str]]]:
    """Returns a setting as families have it, which differ in what it means or takes, and each time those families."""
    found: dict[tuple[str, ...], tuple[FieldInfo, list[str]]] = {}
    for family, cls in SETTINGS_OF.items():
        if (info := fields_of(cls).get(name)) is not None:
            told = "" if name == "model.family" else _text(info.default)
            found.setdefault((str(info.description), _values(name, info), told), (info, []))[1].append(family)
    return list(found.values())


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


def _values(name: str, info: FieldInfo) -> str:
    """Says what a setting takes: its type and its limits."""
    if name == "model.family":
        return ", ".join(f"`{family}`" for family in SETTINGS_OF)
    kind = info.annotation
    prefix = ""
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
        prefix = "list: "
    if choices := [choice for choice in get_args(kind) if isinstance(choice, str | int)]:
        return prefix + ", ".join(f"`{choice}`" for choice in choices)
    names = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}
    signs = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
    bounds = [(sign, getattr(limit, attribute, None)) for limit in info.metadata for attribute, sign in signs]
    limits = [f"{sign} {bound}" for sign, bound in bounds if bound is not None]
    return prefix + " ".join([names.get(kind, "number" if prefix else str(kind)), ", ".join(limits)]).strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
