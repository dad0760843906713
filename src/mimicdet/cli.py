"""The command line: ``mimicdet COMMAND ...``. Each command is a file in ``mimicdet/commands``.

Nothing heavy is imported before a command runs, so help and typing errors answer at once.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import io
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints

from mimicdet.errors import UserError

COMMANDS = {  # name -> module:Class; the laboratory's are named, not imported
    "check": "mimicdet.commands.check:Check",
    "train": "mimicdet.commands.train:Train",
    "eval": "mimicdet.commands.eval:Eval",
    "predict": "mimicdet.commands.predict:Predict",
    "export": "mimicdet.commands.export:Export",
    "explain": "mimicdet.lab.commands.explain:Explain",
    "bench": "mimicdet.lab.commands.bench:Bench",
    "study": "mimicdet.lab.commands.study:Study",
    "convert": "mimicdet.commands.convert:Convert",
    "cut": "mimicdet.commands.cut:Cut",
    "presets": "mimicdet.commands.presets:Presets",
}

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
    """What ``work`` returns; 2 for anything the user can mend, told in one sentence; 130 when interrupted."""
    try:
        return work()
    except UserError as error:
        return _complain(str(error))
    except KeyboardInterrupt:  # training has said how to go on
        return 130
    except BrokenPipeError:  # `mimicdet presets | head`
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (else Python complains at exit that it cannot flush)
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _complain(f"the disk is full ({error.filename or 'while writing'}): free some space and try again")
        if error.filename is None:
            raise
        return _complain(f"{error.filename}: {error.strerror}; correct the path or its permissions")


def _dispatch(arguments: list[str]) -> int:
    if len(arguments) > 1 and arguments[0] == "help":
        arguments = [arguments[1], "--help"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(OVERVIEW.format(commands=_command_list()), end="")
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        from importlib.metadata import version

        print(f"mimicdet {version('mimicdet')}")
        return 0
    if name == "--print-completion":
        return _print_completion(rest)
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(COMMANDS)}"
        raise UserError(f"unknown command '{name}'; {hint}")
    exit_code: int = parse(name, rest).run()
    return exit_code


def parse(name: str, arguments: list[str]) -> Any:
    """A command with its options, from what follows its name; see ``parse_as``."""
    return parse_as(_command(name), f"mimicdet {name}", arguments)


def _command(name: str) -> Any:
    module, _, class_name = COMMANDS[name].partition(":")
    return getattr(importlib.import_module(module), class_name)


def _command_list() -> str:
    summaries = {name: (_command(name).__doc__ or "").splitlines()[0] for name in COMMANDS}
    return "\n".join(f"  {name:<9} {summary}" for name, summary in summaries.items())


def parse_as(command: Any, program: str, arguments: list[str]) -> Any:
    """An object of the dataclass ``command`` from a command line; ``program`` is what the help calls it.

    Raises:
        UserError: the command line is not as the help says.
        SystemExit: help was asked for, and is printed.
    """
    import tyro

    default = tyro.MISSING_NONPROP
    if hasattr(command, "with_settings"):
        default, arguments = command.with_settings(arguments)
        command = type(default)
    _refuse_unknown_options(command, program, arguments)
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            options, left_over = tyro.cli(
                command,
                prog=program,
                args=arguments,
                default=default,
                use_underscores=True,
                return_unknown_args=True,
            )
    except SystemExit as end:
        if end.code == 0:
            _print_examples(command)
            raise
        message = _one_sentence(complaint.getvalue()).replace(f"Missing from {program}:", "missing", 1)
        raise UserError(f"{program}: {message}; see {program} --help") from None
    if left_over:
        raise UserError(f"{program}: unexpected argument '{left_over[0]}'; see {program} --help")
    return options


def _print_examples(command: Any) -> None:
    examples = sys.modules[command.__module__].EXAMPLES
    print("\nexamples:\n" + "".join(f"  {line}\n" for line in examples.splitlines()))


def _one_sentence(box: str) -> str:
    """tyro's message without its frame: what stands between the title and the first rule, joined.

    In a terminal that has only ASCII the title is a line with a rule below it instead of a part of the frame.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    sections: list[list[str]] = [[]]
    for line in plain.splitlines():
        text = line.strip("│ ")
        if text.startswith(("╭", "╰")) or not text:
            continue
        if set(text) <= set("─-"):
            sections.append([])
        else:
            sections[-1].append(text)
    section = sections[0 if "╭" in plain else min(1, len(sections) - 1)]
    sentence = " ".join(section).rstrip(".") or "the arguments cannot be understood"
    # Of a missing argument its name, without all that the help says of it
    sentence = re.sub(r"^(Missing from [^:]*:(?: (?:--)?[\w.|/-]+)(?: [A-Z_]+)*) .*\(required\)$", r"\1", sentence)
    sentence = re.sub(r"invalid literal for int\(\) with base 10: (.*)", r"\1 is not a whole number", sentence)
    return re.sub(r"could not convert string to float: (.*)", r"\1 is not a number", sentence)


def _refuse_unknown_options(command: Any, program: str, arguments: list[str]) -> None:
    options = _option_names(command)
    known = {"--help", *options, *(f"--no_{option[2:]}" for option in options)}
    for argument in arguments:
        option_name = argument.partition("=")[0]
        if not option_name.startswith("--"):
            continue
        normal = "--" + option_name[2:].replace("-", "_")
        if normal in known:
            continue
        settings = [f"--{name}" for name in _settings_names(command)]
        near = difflib.get_close_matches(normal, [*options, *settings], n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"see {program} --help"
        raise UserError(f"{program}: unknown option '{option_name}'; {hint}")


def _settings_names(command: Any) -> tuple[str, ...]:
    if not hasattr(command, "with_settings"):
        return ()
    from mimicdet.settings_file import FIELDS

    return tuple(FIELDS)


def _option_names(command: Any, prefix: str = "--") -> list[str]:
    """All options of a command, less the settings of `train`, which are taken off its arguments before."""
    hints = get_type_hints(command)
    names = []
    for option in fields(command):
        if is_dataclass(hints[option.name]):
            prefixed = getattr(hints[option.name], "PREFIXED", True)
            names += _option_names(hints[option.name], f"{prefix}{option.name}." if prefixed else prefix)
        elif option.name != "settings":
            names.append(f"{prefix}{option.name}")
    return names


def _print_completion(arguments: list[str]) -> int:
    import tyro

    shells = ("bash", "zsh", "fish", "tcsh")
    if len(arguments) != 1 or arguments[0] not in shells:
        raise UserError(f"--print-completion takes one of {', '.join(shells)}")
    app = tyro.extras.SubcommandApp()
    for name in COMMANDS:
        command = _command(name)
        app.command(type(command.with_settings([])[0]) if name == "train" else command, name=name)  # type: ignore[arg-type]
    try:
        app.cli(prog="mimicdet", args=["--tyro-print-completion", arguments[0]], use_underscores=True)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def _complain(sentence: str) -> int:
    """Prints the sentence, once also when torchrun runs several processes."""
    if os.environ.get("RANK", "0") != "0":
        # All processes usually meet the same error. torchrun ends the others as soon as rank 0 is gone, within this
        # pause; an error that only this one met is still told.
        time.sleep(2)
    print(f"error: {sentence}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
