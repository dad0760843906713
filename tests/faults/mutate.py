"""Changes that any JSON value, text or file can suffer; each is a pure function of a random generator."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

HOSTILE: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2.5,
    3.0,
    -0.0,
    1e308,
    -1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**30,
    "",
    " ",
    "1",
    "1.5",
    "nan",
    "x" * 5000,
    "\x1b[2J",
    "a\nerror: b",
    "\u202egnp",
    "\x00",
    "a\x00.png",
    "../../../etc/passwd",
    "/etc/passwd",
    "猫",
    "\ud800",
    [],
    {},
    [[]],
    [None],
    {"a": 1},
    ["x"] * 50,
)


DEEP = 200
"""Levels that Python itself can copy; ``mutate_bytes`` makes more."""


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the paths of all values in nested lists and dictionaries, but that of the whole."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, inner in items:
        found += [(*path, key), *paths(inner, (*path, key))]
    return found


def _parent(document: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        document = document[key]
    return document


def mutate_json(document: Any, rng: random.Random) -> tuple[str, Any]:
    """Returns the kind of one change, and a changed copy."""
    document = copy.deepcopy(document)
    every = paths(document)
    path = rng.choice(every)
    parent, key = _parent(document, path), path[-1]
    kind = rng.choice(("hostile", "hostile", "hostile", "near", "remove", "double", "swap", "rename", "deep"))
    if kind == "hostile":
        parent[key] = copy.deepcopy(rng.choice(HOSTILE))
    elif kind == "near" and isinstance(parent[key], int | float):
        value = parent[key]
        near = [
            value + 1,
            value - 1,
            -value,
            value * 1000,
            value / 3,
            str(value),
            float(value),
            value + 0.25,
            value + 2**53,
        ]
        parent[key] = rng.choice(near)
    elif kind == "remove":
        del parent[key]
    elif kind == "double" and isinstance(parent, list):
        parent.append(copy.deepcopy(parent[key]))
    elif kind == "swap" and isinstance(parent, list) and len(parent) > 1:
        other = rng.randrange(len(parent))
        parent[key], parent[other] = parent[other], parent[key]
    elif kind == "rename" and isinstance(parent, dict):
        parent[rng.choice((str(key).upper(), f"{key} ", f"{key}s"))] = parent.pop(key)
    elif kind == "deep" and max(map(len, every)) < DEEP:
        parent[key] = json.loads("[" * DEEP + "]" * DEEP)
    else:
        parent[key] = None
        kind = "remove"
    return kind, document


def mutate_bytes(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Returns the kind of one change, and the changed content."""
    kind = rng.choice(
        ("cut off", "flip", "flip", "insert", "delete", "repeat", "encoding", "BOM", "empty", "garbage", "deep")
    )
    at = rng.randrange(len(content) + 1) if content else 0
    if kind == "cut off":
        return kind, content[:at]
    if kind == "flip" and content:
        at = min(at, len(content) - 1)
        return kind, content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    if kind == "insert":
        piece = rng.choice((b"\0", b"\xff", b"\n", b"<", b"{", b"\x1b[2J", b"&", b"'", b'"', b"\xe2\x80\xa8", b"\r"))
        return kind, content[:at] + piece + content[at:]
    if kind == "delete":
        return kind, content[:at] + content[at + rng.randrange(1, 20) :]
    if kind == "repeat":
        end = at + rng.randrange(1, 60)
        return kind, content[:end] + content[at:end] + content[end:]
    if kind == "encoding":
        text = content.decode("utf-8", errors="replace")
        return kind, text.encode(rng.choice(("utf-16", "utf-32", "utf-7")), errors="replace")
    if kind == "BOM":
        return kind, b"\xef\xbb\xbf" + content
    if kind == "deep":
        return kind, content[:at] + rng.choice((b"[", b'{"a":', b"<a>", b"- ")) * 50_000 + content[at:]
    if kind == "garbage":
        return kind, rng.randbytes(rng.randrange(1, 300))
    return "empty", b""


def mutate_token(text: str, rng: random.Random, tokens: tuple[str, ...]) -> tuple[str, str]:
    """Replaces one number or word of a text by one of ``tokens``; returns that, and the changed text."""
    import re

    found = list(re.finditer(r"[\w.+-]+", text))
    if not found:
        return "no token", text
    at, token = rng.choice(found), rng.choice(tokens)
    return f"token {token[:12]!r}", text[: at.start()] + token + text[at.end() :]
