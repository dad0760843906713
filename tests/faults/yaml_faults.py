"""Pieces of YAML that have brought readers down: bombs, tags, dates, depth, numbers without end."""

from __future__ import annotations

import random
from collections.abc import Callable

TAGS = ("int", "bool", "float", "timestamp", "binary", "set", "omap", "pairs")
PIECES: dict[str, Callable[[random.Random], str]] = {
    "bad date": lambda rng: f"x: 2020-{rng.randrange(13, 99)}-{rng.randrange(32, 99)}\n",
    "bad time": lambda rng: "x: 2020-01-01T99:99:99Z\n",
    "tag without meaning": lambda rng: f"x: !!{rng.choice(TAGS)} abc\n",
    "python tag": lambda rng: "x: !!python/object/apply:os.system ['true']\n",
    "own tag": lambda rng: "x: !ours {a: 1}\n",
    "long number": lambda rng: f"x: {rng.choice('123456789') * rng.choice((400, 5000, 50_000))}\n",
    "sexagesimal": lambda rng: "x: 190:20:30\n",
    "nested lists": lambda rng: "x: " + "[" * (depth := rng.choice((60, 500, 5000))) + "]" * depth + "\n",
    "nested mappings": lambda rng: "x: " + "{a: " * (depth := rng.choice((60, 500, 5000))) + "1" + "}" * depth + "\n",
    "nested lines": lambda rng: "".join(" " * n + "a:\n" for n in range(rng.choice((60, 500)))),
    "alias": lambda rng: "x: &a [1]\ny: *a\n",
    "alias of itself": lambda rng: "x: &a [*a]\n",
    "aliases that blow up": lambda rng: bomb(rng.choice((4, 9, 20))),
    "merge that blows up": lambda rng: merges(rng.choice((4, 9, 20))),
    "unknown alias": lambda rng: "x: *nowhere\n",
    "key that is a list": lambda rng: "? [1, 2]\n: 3\n",
    "key that is a mapping": lambda rng: "? {a: 1}\n: 3\n",
    "two documents": lambda rng: "x: 1\n---\n",
    "directive": lambda rng: f"%YAML {rng.choice(('9.9', '1.1', 'x'))}\n---\n",
    "tab": lambda rng: "x:\n\t- 1\n",
    "control characters": lambda rng: f'x: "{rng.choice((chr(0), chr(7), chr(27), chr(127)))}"\n',
    "escape of a surrogate": lambda rng: 'x: "\\ud800"\n',
    "open quote": lambda rng: f"x: {rng.choice((chr(34), chr(39)))}abc\n",
    "long key": lambda rng: f"{'x' * rng.choice((1100, 5000))}: 1\n",
    "doubled key": lambda rng: "x: 1\nx: 2\n",
    "nothing": lambda rng: "",
}


def faulty_yaml(rng: random.Random) -> tuple[str, str]:
    """Returns the kind of a piece, and lines to put in front of a document."""
    kind = rng.choice(sorted(PIECES))
    return kind, PIECES[kind](rng)


def bomb(levels: int) -> str:
    """Lists of lists of lists, nine of each, of some hundred bytes."""
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]\n"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, levels)]
    return "".join(lines)


def merges(levels: int) -> str:
    """The same by mappings that take over others."""
    lines = ["m0: &m0 {k: v}\n"]
    lines += [f"m{n}: &m{n} {{<<: [{','.join([f'*m{n - 1}'] * 9)}], k{n}: v}}\n" for n in range(1, levels)]
    return "".join(lines)
