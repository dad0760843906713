"""From preset, YAML file and command line to ``Settings``, and back to one complete YAML file.

Later layers win, key by key: defaults < preset < ``--config`` file < ``--section.key value``. The last one that names
``model.family`` decides which settings there are. Every error is a ``UserError`` of one sentence that names the layer,
the key and what to write instead.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mimicdet.config import SETTINGS_OF, Settings, fields_of, settings_from
from mimicdet.errors import UserError

PRESET_FOLDER = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Layer:
    """Settings from one place.

    ``source`` says where, in a sentence: "in my.yaml". ``values`` maps dotted keys (``optim.lr``) to plain values.
    """

    source: str
    values: dict[str, Any]


FIELDS: dict[str, FieldInfo] = {}
"""Every setting of any family by its dotted name; described as the first family that reads it has it."""
for _class in SETTINGS_OF.values():
    FIELDS |= {name: field for name, field in fields_of(_class).items() if name not in FIELDS}

SECTIONS = tuple(dict.fromkeys(name.rpartition(".")[0] for name in FIELDS if "." in name))


# ---------------------------------------------------------------------------------------------- presets


def preset_names() -> tuple[str, ...]:
    """Names of the presets that come with the package, sorted."""
    return tuple(sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml")))


def preset_file(name: str, source: str = "") -> Path:
    """The YAML file of a preset; ``UserError`` with the nearest name if there is none called so.

    Args:
        source: where it is named, in a sentence: "in my_study.yaml"; by default on the command line.
    """
    names = preset_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(names)}"
        is_path = name.endswith((".yaml", ".yml"))
        path_hint = " (a file of your own goes with --config)" if is_path and not source else ""
        raise UserError(f"there is no preset '{name}'{path_hint}{source and ' ' + source}; {hint}")
    return PRESET_FOLDER / f"{name}.yaml"


def preset_header(name: str) -> list[str]:
    """The comment lines at the top of a preset, without ``#``: summary, command, cost, expected metric."""
    lines: list[str] = []
    for line in preset_file(name).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].removeprefix(" "))
    return lines


# ------------------------------------------------------------------------------------------------- YAML


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: PyYAML's YAML 1.1 reads ``1e-3`` as text and ``precision: no`` as False.

    A key given twice is an error instead of a silent overwrite; aliases, which settings don't need, are refused.
    """

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (name and type are PyYAML's)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) have no place in settings", problem_mark=self.peek_event().start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            problem = None
            if not isinstance(key, yaml.ScalarNode):
                problem = "a key must be a plain word"
            elif key.value in seen:
                problem = f"key '{key.value}' is given twice"
            if problem:
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", r"[-+]?(0|[1-9][0-9]*)", [*"-+0123456789"]),
    ("float", r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?", [*"-+.0123456789"]),
    ("float", r"[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", [*"-+.0123456789"]),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first)


def parse_yaml(text: str, source: str) -> Any:
    """Plain values from YAML text; ``UserError`` naming ``source`` and the line where it is broken."""
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain values only
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{source}{where}: not valid YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2020-99-99, a stray control character
        raise UserError(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None


def read_layer(path: Path) -> Layer:
    """One YAML file of settings, checked for unknown keys."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"settings file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"settings file {path} cannot be read: {error}") from None
    return _layer(text, str(path))


def _layer(text: str, name: str) -> Layer:
    content = parse_yaml(text, name)
    if content is None:
        content = {}
    if not isinstance(content, dict):
        raise UserError(f"{name} holds no settings: it should be 'section:' lines with 'key: value' below them")
    source = f"in {name}"
    return Layer(source, dict(_flatten(content, source)))


def _flatten(content: dict[Any, Any], source: str) -> Iterator[tuple[str, Any]]:
    for name, value in content.items():
        if name in SECTIONS:
            if value is None:  # all keys of the section commented out
                continue
            if not isinstance(value, dict):
                raise UserError(f"'{name}' {source} is a section: write 'key: value' lines below it")
            for key, leaf in value.items():
                check_key(f"{name}.{key}", source)
                yield f"{name}.{key}", leaf
        elif name in FIELDS and "." in name:
            section, _, key = name.rpartition(".")
            raise UserError(f"'{name}' {source} should be nested: '{section}:' and '{key}: ...' below it")
        else:
            check_key(str(name), source)
            yield str(name), value


# ---------------------------------------------------------------------------------------- unknown keys


def check_key(name: str, source: str) -> None:
    """``UserError`` naming the nearest setting, unless ``name`` is one."""
    if name not in FIELDS:
        raise UserError(f"unknown setting '{name}' {source}; {suggestion(name)}")


def suggestion(name: str, also: Sequence[str] = ()) -> str:
    """``did you mean 'optim.lr'?`` for the setting (or name in ``also``) nearest to a misspelt one."""
    near = nearest(name, [*FIELDS, *also])
    return f"did you mean '{near}'?" if near else "`mimicdet train --help` lists them all"


def nearest(wrong: str, names: Sequence[str]) -> str | None:
    """The name that a misspelt one is like, if any is."""
    near = max(names, key=lambda candidate: _likeness(wrong, candidate))
    return near if _likeness(wrong, near) >= 0.65 else None


def _likeness(wrong: str, right: str) -> float:
    """Likeness of two dotted names; the last part alone counts too, and so does an abbreviation (lr)."""
    wrong_section, _, wrong_leaf = wrong.lower().replace("-", "_").rpartition(".")
    right_section, _, right_leaf = right.rpartition(".")
    leaf = difflib.SequenceMatcher(None, wrong_leaf, right_leaf).ratio()
    shuffled = sorted(wrong_leaf) == sorted(right_leaf)  # rl for lr
    if shuffled or right_leaf == _initials(wrong_leaf) or wrong_leaf == _initials(right_leaf):
        leaf = max(leaf, 0.8)
    section = difflib.SequenceMatcher(None, wrong_section, right_section).ratio() if wrong_section else 0.5
    return 0.75 * leaf + 0.25 * section


def _initials(name: str) -> str:
    words = name.split("_")
    return "".join(word[0] for word in words if word) if len(words) > 1 else ""


# ------------------------------------------------------------------------------------- layers -> Settings


def resolve(layers: Iterable[Layer]) -> Settings:
    """Settings from layers, of which a later one wins over an earlier one, key by key."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        for name, value in layer.values.items():
            check_key(name, layer.source)
            values[name] = value
            sources[name] = layer.source
    family = values.get("model.family", next(iter(SETTINGS_OF)))
    if not isinstance(family, str) or family not in SETTINGS_OF:
        *others, last = (f"'{name}'" for name in SETTINGS_OF)
        raise UserError(
            f"setting 'model.family' {sources['model.family']} is {shown(family)}; "
            f"it should be {', '.join(others)} or {last}"
        )
    fields = fields_of(SETTINGS_OF[family])
    nested: dict[str, Any] = {}
    for name, value in values.items():
        _require_meaning(name, value, family, fields, sources[name])
        if not _is_finite(value):
            raise UserError(f"setting '{name}' {sources[name]} is {shown(value)}; it should be a finite number")
        section, _, key = name.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[key] = value
    try:
        return settings_from(nested)
    except ValidationError as error:
        raise UserError(_explain(error, values, sources, fields)) from None


_TASKS = {"mimic": "trains MimicDet's two heads", "distill": "teaches one-stage detectors"}
"""What the tasks do that some families have not."""


def _require_meaning(name: str, value: Any, family: str, fields: Mapping[str, FieldInfo], source: str) -> None:
    """``UserError`` where another family has this setting, or this task, and this one has not."""
    if name not in fields:
        raise UserError(
            f"{name} has no meaning for model.family '{family}'; leave it out, or take a preset of that family "
            f"(mimicdet presets) ({source})"
        )
    if name == "task" and value in [*_TASKS] and value not in get_args(fields[name].annotation):
        raise UserError(f"task '{value}' {_TASKS[value]}, not model.family '{family}'; use task 'detect' ({source})")


def load_settings(
    preset: str | None = None,
    changes: Mapping[str, Any] | None = None,
    *,
    config: str | Path | None = None,
    source: str = "among the changes",
) -> Settings:
    """Returns the settings of a preset, changed by a YAML file, changed by what is given by dotted names.

    ```python
    from mimicdet import load_settings

    settings = load_settings("small", {"train.epochs": 3, "optim.lr": 0.02})
    print(settings.train.epochs, settings.model.backbone)
    again = load_settings(config="runs/cells/settings.yaml")
    ```

    Args:
        preset: the name of one that comes with mimicdet (``mimicdet presets``); without it all have their defaults.
        changes: values by the names on the page of settings, such as ``optim.lr``.
        config: a YAML file of settings, all or some, such as a run's settings.yaml.
        source: what messages say of where the changes stand.

    Raises:
        UserError: a name or value that is none, a file that cannot be read, settings that do not go together.
    """
    layers = []
    if preset is not None:
        layers.append(read_layer(preset_file(preset)))
    if config is not None:
        layers.append(read_layer(Path(config)))
    if changes:
        layers.append(Layer(source, {str(name): value for name, value in changes.items()}))
    return resolve(layers)


def dump_settings(settings: Settings) -> str:
    """All settings as YAML that ``--config`` reads back to the same settings."""
    content = json.loads(settings.model_dump_json())
    text: str = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True)
    return text


def parse_settings(text: str, name: str) -> Settings:
    """What :func:`dump_settings` wrote, perhaps in an older version: settings that are new since have their defaults.

    Args:
        name: what messages call the text.
    """
    return resolve([_layer(text, name)])


def _is_finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(_is_finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def shown(value: Any) -> str:
    """A value of a YAML file as messages have it."""
    return "empty" if value is None else json.dumps(value, default=str)


def _explain(
    error: ValidationError, values: Mapping[str, Any], sources: Mapping[str, str], fields: Mapping[str, FieldInfo]
) -> str:
    """The first of pydantic's findings as one sentence."""
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    name = next((".".join(path[:n]) for n in (1, 2) if ".".join(path[:n]) in fields), None)
    if name is None:  # several keys that do not go together; the model's own message names them
        message = first["msg"].removeprefix("Value error, ")
        concerned = [key for key in values if key in message] or [
            key for key in values if path and key.startswith(path[0] + ".") and key.rpartition(".")[2] in message
        ]
        where = " and ".join(dict.fromkeys(sources[key] for key in concerned))
        return f"{message} ({where})" if where else message
    expected = expectation(first, of_item=len(path) > name.count(".") + 1)
    if first["type"] in ("missing", "too_long", "too_short"):
        expected = f"it should be a list of {len(fields[name].default)} values"
    return f"setting '{name}' {sources[name]} is {shown(values[name])}; {expected}"


def expectation(finding: ErrorDetails, *, of_item: bool) -> str:
    """What pydantic found that a value should be; ``of_item``: of an item in a list, which is named."""
    subject = shown(finding["input"]) + " in it" if of_item else "it"
    message = finding["msg"].replace("Input should", f"{subject} should").replace("valid array", "list")
    return message.replace("Value error,", subject)
