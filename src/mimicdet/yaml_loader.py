"""Loads YAML of any origin as plain values: the one loader for settings, studies and data sets.

A few hundred bytes of YAML can mean gigabytes, run code, or be read as another number than they show. None of the
program's files needs what that takes, so it is refused: aliases of anything nested, merge keys, tags but those of
plain values, keys given twice, numbers of hundreds of digits, and more depth or length than such files have.

Words and numbers are those of YAML 1.2: PyYAML's YAML 1.1 reads ``1e-3`` as text, ``precision: no`` as False, ``1_0``
and ``012`` as 10.
"""

import re
from typing import Any, NoReturn

import yaml

MAX_CHARACTERS, MAX_VALUES, MAX_DEPTH, MAX_DIGITS = 1_000_000, 30_000, 30, 300
"""What a file may hold at most; a file at these limits is read in about a second and 100 MB."""

_CORE = "tag:yaml.org,2002:"
_NUMBER_STARTS = [*"-+.0123456789"]
_WORDS = {
    "null": (r"~|null|Null|NULL|", [*"~nN", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "int": (r"[-+]?(0|[1-9][0-9]*)", _NUMBER_STARTS),
    "float": (
        r"[-+]?(([0-9]+\.[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+|\.(inf|Inf|INF))|\.(nan|NaN|NAN)",
        _NUMBER_STARTS,
    ),
}
_WORDS_OF_DATA = {kind: _WORDS[kind] for kind in ("null", "int")}  # other numbers are class names, and stay as written
_WORDS_OF_DATA["bool"] = (r"(?i:true|false|yes|no|on|off)", [*"tTfFyYnNoO"])  # no class names: other tools read truths


class BrokenYamlError(Exception):
    """Says what is wrong with a YAML text, and in which ``line`` and ``column``, from 1, where that is known."""

    def __init__(self, problem: str, mark: yaml.Mark | None = None) -> None:
        super().__init__(problem)
        self.line: int | None = mark.line + 1 if mark else None
        self.column: int | None = mark.column + 1 if mark else None


def load_yaml(text: str, *, data_set: bool = False) -> Any:
    """Returns the plain values in a YAML text; BrokenYamlError where it is not valid, or beyond the limits above.

    A ``data_set`` may hold aliases of texts, numbers and lists of them, which tools write. Its numbers with a point or
    an exponent stay text, for they are class names, and its ``yes`` and ``off`` are truth values.
    """
    if len(text) > MAX_CHARACTERS:
        raise BrokenYamlError(f"it has {len(text):,} characters, of which no such file has over {MAX_CHARACTERS:,}")
    try:
        loader = _Loader(text, data_set)
        try:
            return loader.get_single_data()  # as yaml.load does
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise BrokenYamlError(error.problem or error.context or "it cannot be parsed", mark) from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a control character, an escape of no character
        raise BrokenYamlError(" ".join(str(error).split())) from None


def _refuse(problem: str, where: Any) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=where)


class _Loader(yaml.SafeLoader):
    """Builds plain values only, within the limits above."""

    def __init__(self, text: str, data_set: bool) -> None:
        super().__init__(text)
        self._data_set, self._values, self._depth = data_set, 0, 0
        words = _WORDS_OF_DATA if data_set else _WORDS
        self.yaml_implicit_resolvers: dict[str, Any] = {}  # name and type are PyYAML's
        for kind, (pattern, starts) in words.items():
            for start in starts:
                resolver = (_CORE + kind, re.compile(rf"^(?:{pattern})$"))
                self.yaml_implicit_resolvers.setdefault(start, []).append(resolver)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        where = event.start_mark
        self._values += 1
        if self._values > MAX_VALUES:
            _refuse(f"it holds more than {MAX_VALUES:,} values", where)
        if isinstance(event, yaml.AliasEvent):
            self._check_alias(event)
            return super().compose_node(parent, index)
        kind = (event.tag or "!").removeprefix(_CORE)
        if kind not in ("!", "str", "seq", "map", *_WORDS):
            _refuse(f"the tag {kind[:40]} has no place here", where)
        if self._depth == MAX_DEPTH:
            _refuse(f"it is nested over {MAX_DEPTH} deep", where)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node)
        return node

    def _check_alias(self, event: yaml.AliasEvent) -> None:
        """Refuses what could blow up: an alias of something that holds more than plain values, or that holds itself."""
        if not self._data_set:
            _refuse("aliases (*name) have no place in settings", event.start_mark)
        node = self.anchors.get(event.anchor)
        plain = node is None or node.end_mark is not None  # a list has no end while it is read
        if plain and isinstance(node, yaml.SequenceNode):
            plain = all(isinstance(item, yaml.ScalarNode) for item in node.value)
        if not plain or isinstance(node, yaml.MappingNode):
            name = (event.anchor or "")[:40]
            _refuse(f"the alias *{name} must stand for a word or a flat list; write it out", event.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                _refuse("a key must be a plain word", key.start_mark)
            if key.value in seen:
                _refuse(f"key '{key.value[:40]}' is given twice", key.start_mark)
            if key.value == "<<" and self._data_set:  # settings know no such key anyway
                _refuse("merge keys (<<) have no place here", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _check_scalar(node: yaml.ScalarNode) -> None:
    """Refuses a value that is not what its tag says, a number nobody can mean, and half of a character."""
    kind, value = node.tag.removeprefix(_CORE), node.value
    problem = ""
    if kind in _PATTERNS and not re.fullmatch(_PATTERNS[kind], value):
        problem = f"{value[:40]!r} is no {kind}"
    elif kind == "int" and len(value) > MAX_DIGITS:
        problem = f"a number of {len(value):,} digits has no meaning here"
    elif not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        problem = "half of a character (a surrogate) is no text"
    if problem:
        _refuse(problem, node.start_mark)


_PATTERNS = {kind: "|".join(words[kind][0] for words in (_WORDS, _WORDS_OF_DATA) if kind in words) for kind in _WORDS}
_PATTERNS["float"] += "|" + _PATTERNS["int"]  # !!float 1
