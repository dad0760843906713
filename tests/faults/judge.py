"""Tries one input and judges what came of it: refused in one sentence, accepted right, or a failure of some kind."""

from __future__ import annotations

import contextlib
import io
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mimicdet.cli import main
from mimicdet.errors import UserError

LONGEST = 2000
"""Characters of a message."""
FOREIGN = "x" * 100
"""A longer text of a file than messages may repeat."""


@dataclass(frozen=True)
class Mutant:
    """An input with what it should give."""

    name: str
    """The kind of change."""
    run: Callable[[], Any]
    """Reads the input; returns what it was understood as."""
    right: Callable[[Any], str | None]
    """Returns what is wrong with that; None where it is right."""
    refuse: bool | None
    """True: it must be refused. False: it must be accepted. None: either, but right if accepted."""
    command: tuple[str, ...] = ()
    """A command that must come to the same."""
    named: tuple[str, ...] = ()
    """A message names one of these."""


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant: "refused", "right" or "failed", and why it failed."""

    kind: str
    seed: int
    name: str
    verdict: str
    fault: str = ""


def judge(mutant: Mutant) -> tuple[str, str]:
    """Returns a verdict and the fault; a fault's kind is what comes before its colon."""
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            value = mutant.run()
        message = None
    except UserError as error:
        message = str(error)
    except BaseException as error:
        return "failed", f"traceback of {_where(error)}"
    if message is not None:
        if fault := _sentence_fault(message, mutant.named):
            return "failed", fault
        if mutant.refuse is False:
            return "failed", f"refused though it is right: {message[:200]}"
    else:
        if mutant.refuse:
            return "failed", "accepted though it must be refused: "
        if fault := mutant.right(value):
            return "failed", f"accepted wrong: {fault}"
    if mutant.command and (fault := _command_fault(mutant.command, refused=message is not None)):
        return "failed", fault
    return ("refused" if message is not None else "right"), ""


def _where(error: BaseException) -> str:
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if "mimicdet/" in frame.filename]
    place = f"{own[-1].name} of {Path(own[-1].filename).name}" if own else "?"
    return f"{type(error).__name__} in {place}: {str(error)[:120]!r}"


def _sentence_fault(message: str, named: tuple[str, ...]) -> str | None:
    if "\n" in message or not message.isprintable():
        bad = next(c for c in message if not c.isprintable())
        return f"message not printable: {bad!r} in {message[:120]!r}"
    if len(message) > LONGEST or FOREIGN in message:
        return f"message too long: {len(message)} characters, {message[:100]!r}"
    if named and not any(name in message for name in named):
        return f"message names no file: {message[:160]}"
    return None


def _command_fault(words: tuple[str, ...], *, refused: bool) -> str | None:
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(list(words))
    except BaseException as error:
        return f"traceback of the command, {_where(error)}"
    report = out.getvalue()
    for line in report.splitlines():
        if not line.isprintable():
            return f"report not printable: {line[:120]!r}"
    if code != (2 if refused else 0):
        return f"exit code {code} of the command: refused {refused}, {err.getvalue()[:160]}"
    lines = err.getvalue().splitlines()
    if refused and (len(lines) != 1 or not lines[0].startswith("error: ")):
        return f"not one sentence: {lines[:3]}"
    return None
