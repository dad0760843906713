"""Makes a command of the words of a command line, by argparse; says what is wrong in sentences of its own.

A command is a dataclass of pydantic's: its fields are the options, the docstring below a field is its help. Settings
come from their own classes (``mimicdet.config``) and are given as ``--section.key value``. argparse words no message:
what it could complain of is found before it, or known by the option that it concerns.
"""

import argparse
import inspect
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic import ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from mimicdet.config import SETTINGS_OF, Settings, fields_of
from mimicdet.config.synonyms import ours, why_none
from mimicdet.errors import UserError, nearest
from mimicdet.settings_file import FIELDS, SECTIONS, Layer, expectation, parse_yaml, resolve, shown, suggestion

COMMAND_LINE = "on the command line"
"""Messages say so where a setting was given."""

DOCUMENTED = ConfigDict(use_attribute_docstrings=True)
"""A command's dataclass has this ``config``: the docstring below a field is its help."""

HELP = ("-h", "--help")
ALIKE = 0.75
"""A name less like a wrong one than this is no guess worth making."""


@dataclass(frozen=True)
class Argument:
    """Says in a field's ``Annotated`` how its value is given.

    The help calls the value ``metavar``, or by its type for "". A ``positional`` one has no name on the command line. A
    ``repeated`` one may be given several times with a value each, instead of once with several.
    """

    metavar: str = ""
    positional: bool = False
    repeated: bool = False


@dataclass(frozen=True)
class SettingsOptions:
    """Says in a field's ``Annotated`` that it takes settings: a dictionary of dotted names and plain values.

    Args:
        prefix: only the settings whose names begin so; "" is all of every family.
        title: what the help says of them; "": what their section's class says.
        resolve: from the command's other values to the settings that the help shows as defaults; None: it shows none.
    """

    prefix: str = ""
    title: str = ""
    resolve: Callable[[Mapping[str, Any]], Settings] | None = None


@dataclass(frozen=True)
class Option:
    """Describes an option of a command line; ``argument`` is None for a setting, whose words are read as YAML's."""

    name: str
    info: FieldInfo
    argument: Argument | None = None

    @property
    def kind(self) -> Any:
        """Returns the option's type, None left out."""
        arms = get_args(self.info.annotation)
        return arms[0] if type(None) in arms else self.info.annotation

    @property
    def is_list(self) -> bool:
        return get_origin(self.kind) is tuple

    @property
    def item(self) -> Any:
        """Returns the type of one word of it."""
        return get_args(self.kind)[0] if self.is_list else self.kind

    @property
    def choices(self) -> tuple[str, ...]:
        if self.name == "model.family":
            return tuple(SETTINGS_OF)
        return tuple(map(str, get_args(self.item))) if get_origin(self.item) is Literal else ()

    @property
    def metavar(self) -> str:
        if self.argument is not None and self.argument.metavar:
            return self.argument.metavar
        if self.choices:
            return "{" + ",".join(self.choices) + "}"
        return {int: "N", bool: "{true,false}", str: "TEXT"}.get(self.item, "X")

    @property
    def is_positional(self) -> bool:
        return self.argument is not None and self.argument.positional

    @property
    def called(self) -> str:
        """Returns what usage and messages call it."""
        return self.metavar if self.is_positional else f"--{self.name}"


def options_of(command: Any) -> list[Option]:
    """Returns every option of a command, settings included; inherited ones come last."""
    fields, settings = command.__pydantic_fields__, _settings_of(command)
    options: list[Option] = []
    for name, info in sorted(fields.items(), key=lambda field: field[0] not in command.__annotations__):
        if name in settings:
            options += [Option(key, FIELDS[key]) for key in FIELDS if key.startswith(settings[name].prefix)]
        else:
            options.append(Option(name, info, next((m for m in info.metadata if isinstance(m, Argument)), Argument())))
    return options


def _settings_of(command: Any) -> dict[str, SettingsOptions]:
    fields = command.__pydantic_fields__.items()
    return {name: mark for name, info in fields for mark in info.metadata if isinstance(mark, SettingsOptions)}


def parse_as(command: Any, program: str, words: Sequence[str]) -> Any:
    """Returns an object of the dataclass ``command`` from a command line; ``program`` is what the help calls it.

    Raises:
        UserError: the command line is not as the help says.
        SystemExit: help was asked for, and is printed.
    """
    line = _Line(program, options_of(command))
    given = line.read([word for word in words if word not in HELP])
    values = {name: value for name, value in given.items() if name in command.__pydantic_fields__}
    for name, taken in _settings_of(command).items():
        values[name] = {key: v for key, v in given.items() if key in FIELDS and key.startswith(taken.prefix)}
        if taken.resolve is None:  # what is wrong is said now, not when a model is loaded
            resolve([Layer(COMMAND_LINE, values[name])])
    if any(word in HELP for word in words):
        print(_help(command, program, values))
        raise SystemExit(0)
    try:
        return command(**values)
    except ValidationError as error:
        line.explain(error)


def add_option(parser: Any, option: Option, more: str = "", *, completing: bool = False) -> None:
    """Adds an option to a parser, or a group of one.

    Its help says ``more`` after its description. ``completing``: a shell is told too what it may complete.
    """
    told = " ".join(f"{option.info.description or ''} {more}".split()).replace("%", "%%")
    if option.argument is not None and option.kind is bool:
        parser.add_argument(f"--{option.name}", action=argparse.BooleanOptionalAction, help=told)
        return
    details: dict[str, Any] = {}
    if option.is_positional:
        details["nargs"] = "*" if option.is_list else "?"
    elif option.argument is not None and option.argument.repeated:
        details["action"] = "append"
    elif option.is_list:
        details["nargs"] = "+"
    if completing and option.choices:
        details["choices"] = option.choices
    name = option.name if option.is_positional else f"--{option.name}"
    action = parser.add_argument(name, help=told, metavar=option.metavar, **details)
    if completing and (option.item is Path or option.is_positional):
        import shtab

        action.complete = shtab.FILE


class _Line:
    def __init__(self, program: str, options: Sequence[Option]) -> None:
        self.program = program
        self.options = {option.name: option for option in options}
        self.named = {f"--{option.name}": option for option in options if not option.is_positional}
        self.named |= {f"--no_{o.name}": o for o in options if o.kind is bool and o.argument is not None}

    def complain(self, what: str) -> NoReturn:
        raise UserError(f"{self.program}: {what}; see {self.program} --help")

    def read(self, words: Sequence[str]) -> dict[str, Any]:
        """Returns the values that are given, by the name of the option or setting."""
        quiet: dict[str, Any] = {"add_help": False, "allow_abbrev": False, "exit_on_error": False}
        parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS, **quiet)
        for option in self.options.values():
            add_option(parser, option)
        try:
            found, left_over = parser.parse_known_intermixed_args(list(self._normal(words)))
        except argparse.ArgumentError as error:  # an option without its value: all else is found elsewhere
            name = str(error.argument_name)
            self.complain(f"{name} needs a value ({self.named[name].metavar})")
        if left_over:
            self.complain(f"unexpected argument '{left_over[0].strip()}'")
        return {name: _value(self.options[name], value) for name, value in vars(found).items()}

    def _normal(self, words: Sequence[str]) -> Iterator[str]:
        """Yields the words as argparse is to see them: one spelling of a name, and no value that looks like one."""
        waiting = list(reversed(words))
        while waiting:
            word = waiting.pop()
            if not word.startswith("--"):
                yield f" {word}" if word.startswith("-") and not isinstance(_scalar(word), str) else word
                continue
            written, equals, value = word.partition("=")
            name = "--" + written[2:].replace("-", "_")
            option = self.named.get(name) or self._unknown(name, written)
            if option.kind is bool and option.argument is not None:
                if equals:
                    self.complain(f"{name} takes no value")
                yield name.replace("--no_", "--no-", 1)
            elif option.kind is bool:  # a setting, which may stand alone
                if not equals:
                    value = waiting.pop() if waiting and waiting[-1].lower() in ("true", "false") else "true"
                yield f"{name}={value}"
            elif option.is_list and option.argument is None and "," in value and not value.startswith("["):
                yield f"{name}=[{value}]"
            else:
                yield f"{name}{equals}{value}"

    def _unknown(self, name: str, written: str) -> NoReturn:
        bare = name[2:]
        if "task" in self.options and bare in SECTIONS and bare not in self.options:
            key = next(name for name in FIELDS if name.startswith(f"{bare}."))
            raise UserError(f"'--{bare}' is a section of settings: name a key of it, such as --{key}")
        if "task" in self.options and "." in bare:
            raise UserError(f"unknown setting '--{bare}'; {suggestion(bare).replace(chr(39), chr(39) + '--', 1)}")
        raise UserError(f"{self.program}: unknown option '{written}'; {self._hint(bare)}")

    def _hint(self, bare: str) -> str:
        """Says what to write instead of an option that there is not: as other tools call it, or the nearest."""
        if same := [self.options[name] for name in ours(bare) if name in self.options]:
            given = (f"{o.called} (no name before it)" if o.is_positional else f"{o.called} {o.metavar}" for o in same)
            return f"here that is {' or '.join(given)}"
        if (why := why_none(bare)) is not None and "task" in self.options:
            return why
        names = {name.removeprefix("--"): name for name in self.named}
        begun = [name for name in names if name.startswith(bare) or bare.startswith(name)]
        near = begun[0] if len(begun) == 1 and len(bare) > 2 else nearest(bare, names, cutoff=ALIKE)
        return f"did you mean '{names[near]}'?" if near else f"see {self.program} --help"

    def explain(self, error: ValidationError) -> NoReturn:
        """Complains of all that is missing, or else of the first value that is not what it should be."""
        findings = error.errors(include_url=False)
        # A wrong word in the first place moves all others on: then it is the word that is wrong, and nothing is missing
        wrong = [found for found in findings if self._is_wrong_word(found)]
        missing = [self.options[str(found["loc"][0])] for found in findings if found["type"] == "missing"]
        if missing and not wrong:
            named = (o.called if o.is_positional else f"{o.called} {o.metavar}" for o in missing)
            self.complain(f"missing {' and '.join(named)}")
        first = [*wrong, *findings][0]
        option, word = self.options[str(first["loc"][0])], first["input"]
        numbers = {"int_parsing": "it should be a whole number", "float_parsing": "it should be a number"}
        expected = numbers.get(first["type"]) or expectation(first, of_item=False)
        near = nearest(str(word), option.choices)
        hint = f" (did you mean '{near}'?)" if near else ""
        self.complain(f"{option.called} is {shown(word)}; {expected}{hint}")

    def _is_wrong_word(self, found: Any) -> bool:
        return found["type"] == "literal_error" and self.options[str(found["loc"][0])].is_positional


def _value(option: Option, found: Any) -> Any:
    """Makes a value of its words: of a setting as YAML would give it, of another option as pydantic takes it."""
    if isinstance(found, bool):
        return found
    words = [word.removeprefix(" ") for word in (found if isinstance(found, list) else [found])]
    if option.item is Path and "" in words:
        raise UserError(f"{option.called} is empty, which is no path; write . for the folder at hand")
    if option.argument is not None:
        return words if option.is_list else words[0]
    if option.is_list and len(words) == 1 and words[0].startswith("["):
        return parse_yaml(words[0], f"--{option.name}")
    values = [word if option.kind is str else _scalar(word) for word in words]
    return values if option.is_list else values[0]


def _scalar(word: str) -> Any:
    """Reads a number or switch as such, all else as text."""
    if word.lower() in ("true", "false"):
        return word.lower() == "true"
    for number in (int, float):
        try:
            return number(word)
        except ValueError:
            continue
    return word


def _help(command: Any, program: str, values: Mapping[str, Any]) -> str:
    options = [option for option in options_of(command) if option.argument is not None]
    usage = [program]
    usage += [o.called if o.is_positional else f"{o.called} {o.metavar}" for o in options if o.info.is_required()]
    usage += [f"[{o.metavar}]" for o in options if o.is_positional and not o.info.is_required()]
    parser = argparse.ArgumentParser(
        add_help=False,
        usage=" ".join([*usage, "[options]"]),
        description=_paragraphs(command.__doc__),
        epilog="examples:\n" + textwrap.indent(sys.modules[command.__module__].EXAMPLES, "  "),
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=12),
    )
    positional, general = parser.add_argument_group("arguments"), parser.add_argument_group("options")
    general.add_argument(*HELP, action="help", help="Print this help.")
    for option in options:
        told = "(required)" if option.info.is_required() else _default(option.info.default)
        add_option(positional if option.is_positional else general, option, told)
    for taken in _settings_of(command).values():
        settings = taken.resolve(values) if taken.resolve is not None else None
        fields = FIELDS if settings is None else fields_of(type(settings))
        names = [name for name in fields if name.startswith(taken.prefix)]
        for section, keys in groupby(names, key=lambda name: name.rpartition(".")[0]):
            part = getattr(settings, section) if settings is not None and section else settings
            title = taken.title or type(part).__doc__
            group = parser.add_argument_group(f"{section} options", _paragraphs(title)) if section else general
            for key in keys:
                value = None if part is None else getattr(part, key.rpartition(".")[2])
                add_option(group, Option(key, fields[key]), _default(value))
    return parser.format_help()


def _default(value: Any) -> str:
    """Returns ``(default: ...)``, or nothing where it would say nothing."""
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    value = str(value).lower() if isinstance(value, bool) else value
    return "" if value is None or value == "" else f"(default: {value})"


def _paragraphs(text: str | None) -> str:
    width = shutil.get_terminal_size().columns - 2
    return "\n\n".join(textwrap.fill(part, width) for part in inspect.cleandoc(text or "").split("\n\n"))
