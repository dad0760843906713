"""The one exception for what users can mend, foreign text in messages, the nearest name, silence after a signal."""

import difflib
import heapq
import os
import re
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

FOREIGN = 80
"""A name, value or cell that comes from elsewhere has at most this many characters in a message."""
MESSAGE = 2000
"""A message has at most this many characters, paths included."""
_BESIDE = 10_000  # more names are not looked through
_CANDIDATES = 300
"""A name is compared with at most this many others, which takes about 30 ms."""


class UserError(Exception):
    """Tells the user of bad input in one sentence: the file, the item in it, what is wrong, the way out.

    The command line prints the message without a traceback and exits with code 2. It is one line of printable
    characters, whatever names and values stand in it (see ``message``).
    """

    def __init__(self, text: object = "") -> None:
        super().__init__(message(text))


def one_line(text: object, most: int = FOREIGN) -> str:
    r"""Returns text that anybody may have written, as one line that can neither steer a terminal nor forge another.

    What is not printable is escaped as in Python, such as ``\n``, ``\x1b``, a character that turns the direction of
    writing, or half of a surrogate pair. Of more than ``most`` characters the middle is left out.
    """
    line = str(text)
    if line.isprintable() and len(line) <= most:
        return line
    if len(line) > 2 * most:  # an escape is no shorter than what it stands for
        line = line[:most] + line[-most:]
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    if len(line) <= most:
        return line
    head = (most - 5) // 2
    return f"{line[:head]} ... {line[len(line) - (most - 5 - head) :]}"


def writing(value: object) -> str:
    """Returns Python's own writing of a value as one line; of a value that has none, its type."""
    try:
        return one_line(repr(value))
    except Exception:  # such as a number of more digits than Python writes, or whatever a class of the user's raises
        return f"something that cannot be written out, of type {type(value).__name__}"


def message(text: object) -> str:
    """Returns a whole message as ``one_line`` of at most ``MESSAGE`` characters, its words of at most ``FOREIGN``."""
    line = one_line(text, 100 * MESSAGE)
    return one_line(re.sub(rf"[^\s/]{{{FOREIGN + 1},}}", lambda word: one_line(word[0]), line), MESSAGE)


def nearest(name: str, names: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Returns the one of ``names`` most like ``name``, whatever the case of letters, None if none is.

    ``cutoff`` is the least likeness, from 0 to 1 for equal names. Of many ``names`` only those of the most similar
    length are looked at, and of each name its first ``FOREIGN`` characters.
    """
    word, folded = name.casefold()[:FOREIGN], {other.casefold()[:FOREIGN]: other for other in names}
    if word in folded:
        return folded[word]
    likely = heapq.nsmallest(_CANDIDATES, folded, key=lambda other: abs(len(other) - len(word)))
    near = difflib.get_close_matches(word, likely, n=1, cutoff=cutoff)
    return folded[near[0]] if near else None


def near_path(path: str | Path) -> str:
    """Returns `` (did you mean cells/train?)`` for a path that is not there; "" where nothing beside it is like it.

    Names that differ in digits are others of a series, and no misspelling.
    """
    place, rest = Path(path), Path()
    if os.path.lexists(path):
        return ""
    while not os.path.isdir(place.parent):
        if place.parent == place:
            return ""
        place, rest = place.parent, place.name / rest
    digits = re.findall(r"\d", place.name)
    try:
        with os.scandir(place.parent) as entries:
            beside = [entry.name for entry in islice(entries, _BESIDE) if re.findall(r"\d", entry.name) == digits]
    except OSError:
        return ""
    near = nearest(place.name, beside, cutoff=0.75)
    found = None if near is None else place.with_name(near) / rest
    return f" (did you mean {found}?)" if found is not None and os.path.exists(found) else ""


def silence_half_made() -> None:
    """Lets nothing complain any more that a signal catches half made, as in an import, and that is then taken down.

    A handler calls it before it raises. An interrupt that Python drops still goes to ``sys.unraisablehook`` of before.
    """
    told = sys.unraisablehook
    sys.unraisablehook = lambda found: told(found) if issubclass(found.exc_type, KeyboardInterrupt) else None
