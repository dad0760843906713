"""Makes ``Settings`` of preset, YAML file and command line, and one complete YAML file of them.

Later layers win, key by key: defaults < preset < ``--config`` file < ``--section.key value``. The last one that names
``model.family`` decides which settings there are. Every error is a ``UserError`` of one sentence that names the layer,
the key and what to write instead.
"""

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from mimicdet.arguments import checked
from mimicdet.config import SETTINGS_OF, Settings, fields_of, settings_from
from mimicdet.config.synonyms import ours, why_none
from mimicdet.errors import UserError, near_path, nearest, one_line
from mimicdet.streams import require_plain
from mimicdet.yaml_loader import BrokenYamlError, load_yaml

PRESET_FOLDER = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Layer:
    """Holds settings from one place: ``values`` maps dotted keys (``optim.lr``) to plain values.

    ``source`` says where they are from, in a sentence: "in my.yaml".
    """

    source: str
    values: dict[str, Any]


FIELDS: dict[str, FieldInfo] = {}
"""Every setting of any family by its dotted name; described as the first family that reads it has it."""
for _class in SETTINGS_OF.values():
    FIELDS |= {name: field for name, field in fields_of(_class).items() if name not in FIELDS}

SECTIONS = tuple(dict.fromkeys(name.rpartition(".")[0] for name in FIELDS if "." in name))


def preset_names() -> tuple[str, ...]:
    """Returns the names of the presets that come with the package, sorted."""
    return tuple(sorted(path.stem for path in PRESET_FOLDER.glob("*.yaml")))


def preset_file(name: str, source: str = "") -> Path:
    """Returns the YAML file of a preset; UserError with the nearest name if there is none called so.

    ``source`` says where it is named, in a sentence: "in my_study.yaml"; by default on the command line.
    """
    names = preset_names()
    if name not in names:
        near = nearest(name, names)
        hint = f"did you mean '{near}'?" if near else f"there are {', '.join(names)}"
        is_path = name.endswith((".yaml", ".yml"))
        path_hint = " (a file of your own goes with --config)" if is_path and not source else ""
        raise UserError(f"there is no preset '{name}'{path_hint}{source and ' ' + source}; {hint}")
    return PRESET_FOLDER / f"{name}.yaml"


def preset_header(name: str) -> list[str]:
    """Returns the comment lines at the top of a preset, without ``#``: summary, command, cost, expected metric."""
    lines = preset_file(name).read_text(encoding="utf-8").splitlines()
    return [line[1:].removeprefix(" ") for line in takewhile(lambda line: line.startswith("#"), lines)]


def parse_yaml(text: str, source: str) -> Any:
    """Returns plain values from YAML text; UserError naming ``source`` and the line where it is broken."""
    try:
        return load_yaml(text)
    except BrokenYamlError as error:
        where = f", line {error.line}" if error.line else ""
        raise UserError(f"{source}{where}: not valid YAML: {error}") from None


def read_layer(path: Path) -> Layer:
    """Reads one YAML file of settings, checked for unknown keys."""
    require_plain(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"settings file {path} does not exist{near_path(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"settings file {path} cannot be read: {error}") from None
    return _layer(text, str(path))


def _layer(text: str, name: str) -> Layer:
    content, source = parse_yaml(text, name), f"in {name}"
    if not isinstance(content, dict | None):
        raise UserError(f"{name} holds no settings: it should be 'section:' lines with 'key: value' below them")
    values: dict[str, Any] = {}
    for key, value in (content or {}).items():
        leaves = {str(key): value}
        if key in SECTIONS:
            if not isinstance(value, dict | None):  # None: all keys of the section are commented out
                raise UserError(f"'{key}' {source} is a section: write 'key: value' lines below it")
            leaves = {f"{key}.{leaf}": setting for leaf, setting in (value or {}).items()}
        elif key in FIELDS and "." in key:
            section, _, leaf = key.rpartition(".")
            raise UserError(f"'{key}' {source} should be nested: '{section}:' and '{leaf}: ...' below it")
        for setting in leaves:
            check_key(setting, source, in_file=True)
        values |= leaves
    return Layer(source, values)


def check_key(name: str, source: str, *, in_file: bool = False) -> None:
    """Raises UserError naming the nearest setting, unless ``name`` is one; of a file's it says where to write it."""
    if name not in FIELDS:
        raise UserError(f"unknown setting '{name}' {source}; {suggestion(name, in_file=in_file)}")


def suggestion(name: str, *, in_file: bool = False) -> str:
    """Asks ``did you mean 'optim.lr'?`` for the setting that other tools call so, or the most like a misspelt one."""
    near = max(FIELDS, key=lambda candidate: _likeness(name, candidate))
    section, _, leaf = name.rpartition(".")
    found = [known for known in ours(leaf) if known in FIELDS and "." in known]
    if _likeness(name, near) >= 0.85:  # a slip of the pen
        found = [near]
    elif not found and (why := why_none(leaf)) is not None:
        return why
    elif not found:
        found = [near] if _likeness(name, near) >= 0.65 else []
    if not found:
        return "`mimicdet train --help` lists them all"
    found = [known for known in found if section and known.startswith(f"{section}.")] or found
    home, _, key = found[0].rpartition(".")
    where = f" (write '{key}: ...' below '{home}:')" if in_file and home not in ("", section) else ""
    return f"did you mean {' or '.join(map(repr, found))}?{where}"


def _likeness(wrong: str, right: str) -> float:
    """Returns the likeness of two dotted names; the last part alone counts too, and so does an abbreviation (lr)."""
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


class _Given(NamedTuple):
    value: Any
    source: str


def resolve(layers: Iterable[Layer]) -> Settings:
    """Makes settings of layers, of which a later one wins over an earlier one, key by key."""
    given: dict[str, _Given] = {}
    for layer in layers:
        for name, value in layer.values.items():
            check_key(name, layer.source)
            given[name] = _Given(value, layer.source)
    family, source = given.get("model.family", (next(iter(SETTINGS_OF)), ""))
    if not isinstance(family, str) or family not in SETTINGS_OF:
        *others, last = (f"'{name}'" for name in SETTINGS_OF)
        should = f"it should be {', '.join(others)} or {last}"
        raise UserError(f"setting 'model.family' {source} is {shown(family)}; {should}")
    fields = fields_of(SETTINGS_OF[family])
    nested: dict[str, Any] = {}
    for name, (value, source) in given.items():
        if name not in fields:
            way_out = "leave it out, or take a preset of that family (mimicdet presets)"
            raise UserError(f"{name} has no meaning for model.family '{family}'; {way_out} ({source})")
        if name == "task" and value in [*_TASKS] and value not in get_args(fields[name].annotation):
            does = f"task '{value}' {_TASKS[value]}, not model.family '{family}'"
            raise UserError(f"{does}; use task 'detect' ({source})")
        if not _is_finite(value):
            raise UserError(f"setting '{name}' {source} is {shown(value)}; it should be a finite number")
        section, _, key = name.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[key] = value
    try:
        return settings_from(nested)
    except ValidationError as error:
        raise UserError(_explain(error, given, fields)) from None


_TASKS = {"mimic": "trains MimicDet's two heads", "distill": "teaches one-stage detectors"}
"""Some families have not these tasks, which do this."""


@checked()
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
    files = [*([] if preset is None else [preset_file(preset)]), *([] if config is None else [Path(config)])]
    given = Layer(source, {str(name): value for name, value in (changes or {}).items()})
    return resolve([*map(read_layer, files), given])


def dump_settings(settings: Settings) -> str:
    """Returns all settings as YAML that ``--config`` reads back to the same settings."""
    content = settings.model_dump(mode="json")
    return str(yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True))


def parse_settings(text: str, name: str) -> Settings:
    """Reads what :func:`dump_settings` wrote, perhaps without newer settings; messages call the text ``name``."""
    return resolve([_layer(text, name)])


def _is_finite(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def shown(value: Any) -> str:
    """Returns a value of a YAML file as messages have it."""
    return "empty" if value is None else one_line(json.dumps(value, default=str, ensure_ascii=False))


def _explain(error: ValidationError, given: Mapping[str, _Given], fields: Mapping[str, FieldInfo]) -> str:
    first = error.errors(include_url=False)[0]
    path = [str(part) for part in first["loc"]]
    name = next((".".join(path[:n]) for n in (1, 2) if ".".join(path[:n]) in fields), None)
    if name is None:  # several keys that do not go together; the model's own message names them
        message = first["msg"].removeprefix("Value error, ")
        concerned = [key for key in given if key in message] or [
            key for key in given if path and key.startswith(path[0] + ".") and key.rpartition(".")[2] in message
        ]
        where = " and ".join(dict.fromkeys(given[key].source for key in concerned))
        return f"{message} ({where})" if where else message
    expected = expectation(first, of_item=len(path) > name.count(".") + 1)
    if first["type"] == "too_short":
        expected = "it should be a list of one value or more"
    elif first["type"] in ("missing", "too_long"):
        expected = f"it should be a list of {len(fields[name].default)} values"
    return f"setting '{name}' {given[name].source} is {shown(given[name].value)}; {expected}"


def expectation(finding: ErrorDetails, *, of_item: bool) -> str:
    """Says what pydantic found that a value should be; ``of_item``: of an item in a list, which is named."""
    subject = shown(finding["input"]) + " in it" if of_item else "it"
    message = finding["msg"].replace("Input should", f"{subject} should").replace("valid array", "list")
    return message.replace("Value error,", subject)
