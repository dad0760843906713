"""Reads the command line, ``mimicdet COMMAND ...``. Each command is a file in ``mimicdet/commands``.

Nothing heavy is imported before a command runs, so help and typing errors answer at once.
"""

import importlib
import io
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mimicdet.errors import UserError, message, nearest, silence_half_made

COMMANDS = {  # the first sentence of each one's own help: nothing is imported to list them
    "check": "Reads a data set as training does and lists every fault by kind, with counts and examples.",
    "train": "Checks a data set, then trains a detector on it.",
    "eval": "Measures a trained model on a data set: COCO's 12 numbers and the AP of each class.",
    "predict": "Detects objects in images; writes COCO results and pictures with the boxes drawn.",
    "export": "Writes a model as one ONNX, OpenVINO or torch file for images of any size, and compares the two.",
    "explain": "Shows where a trained MimicDet's S-head looks, and what it loses against its T-head.",
    "bench": "Times a trained model, exported or not: milliseconds of one batch, and of each stage.",
    "study": "Trains a list of runs with several seeds each and compares them in a table.",
    "convert": "Writes a data set in another format; boxes, classes and splits survive exactly.",
    "cut": "Cuts a data set of large images, such as aerial photographs, into tiles to train on.",
    "presets": "Lists the presets with command, cost and expected accuracy, or prints one in full.",
}
LABORATORY = ("explain", "bench", "study")
SHELLS = ("bash", "zsh", "fish", "tcsh")

OVERVIEW = """\
usage: mimicdet COMMAND ...

One-stage object detectors with two-stage accuracy: from a folder of images with boxes to a trained,
measured and usable detector.

{commands}

  mimicdet COMMAND --help             options and examples of a command
  mimicdet --version
  mimicdet --print-completion SHELL   tab completion for bash, zsh, fish or tcsh; for example
                                      mimicdet --print-completion bash >> ~/.bashrc

From data to detections:
  mimicdet check cells
  mimicdet train cells --preset small --out runs/cells
  mimicdet eval runs/cells/model --data cells
  mimicdet predict runs/cells/model photo.jpg --pictures out
  mimicdet export runs/cells/model --format onnx
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code as ``guarded`` does."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _dispatch(words))


def guarded(work: Callable[[], int]) -> int:
    """Returns what ``work`` returns; 2 for anything the user can mend, told in one sentence; 130 when interrupted."""
    try:
        _open_missing_streams()
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of damaged images, which are told in a sentence
        for stream in (sys.stdout, sys.stderr):  # no name is lost, or costs a traceback, on a terminal of few letters
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        with _quiet_interrupts():
            code = work()
            print(end="", flush=True)  # here, so that a reader that has gone is met below and not at exit
            return code
    except UserError as error:
        return _complain(str(error))
    except KeyboardInterrupt:  # training has said how to go on
        return 130
    except BrokenPipeError:  # `mimicdet presets | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (else Python complains at exit that it cannot flush)
        return 0
    except MemoryError:
        return _complain("there is not enough memory for this; close other programs, or work with less at a time")
    except OSError as error:
        from mimicdet.files import DISK_FULL, why_not_written

        if error.errno in DISK_FULL:
            where = error.filename or "while writing"
            return _complain(f"{why_not_written(error)} ({where}): free some space and try again")
        if error.filename is None:
            raise
        return _complain(f"{error.filename}: {error.strerror}; correct the path or its permissions")


def _open_missing_streams() -> None:
    """Gives whoever closed a standard stream, as ``2>&-`` does, one that leads nowhere.

    Else the first file that is opened takes its number, and gets what programs below Python say.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (for as long as the program runs)


@contextmanager
def _quiet_interrupts() -> Iterator[None]:
    """Keeps Ctrl-C free of tracebacks: what it catches half made, as in an import, may complain as it is taken down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told = sys.unraisablehook

    def unraisable(found: "sys.UnraisableHookArgs") -> None:
        # Ctrl-C came while something was deleted, where Python drops it, and with it perhaps a lock: a module's, for
        # which threads that import would wait for ever. What is being written is whole or has no name yet.
        if issubclass(found.exc_type, KeyboardInterrupt):
            os._exit(130)
        told(found)

    def interrupted(number: int, frame: FrameType | None) -> None:
        silence_half_made()
        signal.default_int_handler(number, frame)

    sys.unraisablehook = unraisable
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    except Exception as error:
        if _follows_interrupt(error):
            raise KeyboardInterrupt from error
        raise
    finally:
        if sys.unraisablehook is unraisable:
            sys.unraisablehook = told


def _follows_interrupt(error: BaseException | None) -> bool:
    """Tells whether an error came while Ctrl-C unwound something, as argparse's own clean-up does."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__cause__ or error.__context__
    return False


def _dispatch(arguments: list[str]) -> int:
    if len(arguments) > 1 and arguments[0] == "help":
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        commands = "\n".join(f"  {name:<9} {summary}" for name, summary in COMMANDS.items())
        print(OVERVIEW.format(commands=commands), end="")
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        from importlib.metadata import version

        print(f"mimicdet {version('mimicdet')}")
        return 0
    if name == "--print-completion":
        return _print_completion(rest)
    if name not in COMMANDS:
        from mimicdet.config import synonyms

        near = synonyms.COMMANDS.get(name.casefold()) or nearest(name, COMMANDS)
        hint = f"did you mean '{near}'?" if near else f"there are {', '.join(COMMANDS)}"
        raise UserError(f"unknown command '{name}'; {hint}")
    return int(parse(name, rest).run())


def parse(name: str, arguments: list[str]) -> Any:
    """Returns a command with its options, from what follows its name; see ``mimicdet.commands.parser.parse_as``."""
    from mimicdet.commands.parser import parse_as

    return parse_as(command_of(name), f"mimicdet {name}", arguments)


def command_of(name: str) -> Any:
    """Returns the class of a command, and imports it."""
    package = "mimicdet.lab.commands" if name in LABORATORY else "mimicdet.commands"
    return getattr(importlib.import_module(f"{package}.{name}"), name.title())


def _print_completion(arguments: list[str]) -> int:
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise UserError(f"--print-completion takes one of {', '.join(SHELLS)}")
    import argparse

    import shtab

    from mimicdet.commands.parser import add_option, options_of

    parser = argparse.ArgumentParser("mimicdet")
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.add_argument("--print-completion", choices=SHELLS, help="print tab completion for a shell")
    commands = parser.add_subparsers()
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary)
        for option in options_of(command_of(name)):
            add_option(command, option, completing=True)
    print(shtab.complete(parser, arguments[0]))
    return 0


def _complain(sentence: str) -> int:
    """Prints the sentence, once also when torchrun runs several processes."""
    if os.environ.get("RANK", "0") != "0":
        # All processes usually meet the same error. torchrun ends the others as soon as rank 0 is gone, within this
        # pause; an error that only this one met is still told.
        time.sleep(4)
    print(f"error: {message(sentence)}", file=sys.stderr)
    return 2
