"""The command line as a user meets it: help, typing errors, exit codes, start-up."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mimicdet import cli
from mimicdet.cli import COMMANDS, guarded, main
from mimicdet.commands.options import with_options
from mimicdet.commands.parser import options_of
from mimicdet.config import InferenceSettings, fields_of, synonyms
from mimicdet.errors import UserError
from mimicdet.settings_file import FIELDS, load_settings
from tests.fakes.small_sets import coco_document, write_coco


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The one sentence that a wrong command line gets."""
    assert main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: ")
    assert "Traceback" not in captured.err
    return captured.err.removeprefix("error: ").rstrip("\n")


def help_text(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    return capsys.readouterr().out


# ----------------------------------------------------------------------------------------------- help


def test_overview_names_every_command_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, summary in COMMANDS.items():
        assert (cli.command_of(name).__doc__ or "").splitlines()[0] == summary
        assert f"  {name:<9} {summary}\n" in text
    assert main([]) == 2


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mimicdet {version('mimicdet')}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_explains_every_option_and_ends_with_examples(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = help_text(capsys, name)
    words = " ".join(text.split())
    for option in options_of(cli.command_of(name)):
        if option.argument is not None:  # settings: see below
            assert f"{option.called} " in text or f"{option.called}, " in text
            assert " ".join((option.info.description or "").split()) in words
            assert (option.info.description or "").split()[0] not in (
                "Of",
                "What",
                "Which",
                "How",
                "Where",
                "Those",
                "Such",
            )
    examples = text.partition("\nexamples:\n")[2]
    assert f"mimicdet {name}" in examples


def examples() -> list[list[str]]:
    """The command lines in the help's examples, without their explanations."""
    lines = [line for name in COMMANDS for line in sys.modules[cli.command_of(name).__module__].EXAMPLES.splitlines()]
    commands = [line.partition("   ")[0].partition(" > ")[0] for line in lines]
    return [command.partition("mimicdet ")[2].split() for command in commands]


@pytest.mark.parametrize("words", examples(), ids=" ".join)
def test_examples_are_command_lines_that_parse(words: list[str], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    saved = tmp_path / "runs/cells/settings.yaml"
    saved.parent.mkdir(parents=True)
    saved.write_text("optim:\n  lr: 0.5\n")
    if "--help" not in words:
        cli.parse(words[0], words[1:])


@pytest.mark.parametrize("preset", ["paper_r50_2x", "gfl_r50_2x", "faster_rcnn_r50_2x"])
def test_help_of_train_lists_every_setting_of_the_family_with_the_presets_value(
    preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = " ".join(help_text(capsys, "train", "--preset", preset).split())
    read = fields_of(type(load_settings(preset=preset)))
    for name in FIELDS:
        assert (f"--{name} " in text) == (name in read), name
    assert "(default: 16.0 22.0)" in text


def test_help_of_train_shows_what_the_same_words_would_train_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "settings.yaml").write_text("model:\n  family: fcos\none_stage:\n  center_radius: 2.25\n")
    for words in (["--config", str(tmp_path / "settings.yaml")], ["--out", str(tmp_path), "--resume"]):
        assert "(default: 2.25)" in help_text(capsys, "train", *words)
    assert "(default: 3.5)" in help_text(capsys, "train", *words, "--one_stage.center_radius", "3.5")
    assert "has no meaning for model.family 'mimicdet'" in complaint(
        capsys, "train", "--one_stage.center_radius", "3", "--help"
    )


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "tcsh"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*COMMANDS, "optim.lr", "box_grid"):
        assert word in script


def test_completion_script_is_valid_bash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--print-completion", "bash"]) == 0
    subprocess.run(["bash", "-n"], input=capsys.readouterr().out, text=True, check=True)


# ------------------------------------------------------------------------------------- wrong arguments


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("trian x", "unknown command 'trian'; did you mean 'train'?"),
        (
            "frobnicate",
            "unknown command 'frobnicate'; there are check, train, eval, predict, export, explain, bench, study, "
            "convert, cut, presets",
        ),
        ("check --jsn f x", "mimicdet check: unknown option '--jsn'; did you mean '--json'?"),
        ("check x --foo-bar", "mimicdet check: unknown option '--foo-bar'; see mimicdet check --help"),
        ("check x y", "mimicdet check: unexpected argument 'y'; see mimicdet check --help"),
        ("train x --out r --ressume", "mimicdet train: unknown option '--ressume'; did you mean '--resume'?"),
        ("train x --out r --optimlr 1", "mimicdet train: unknown option '--optimlr'; did you mean '--optim.lr'?"),
        ("train x --out r --optim.rl 1", "unknown setting '--optim.rl'; did you mean '--optim.lr'?"),
        (
            "train x --out r --optim.lr a",
            """setting 'optim.lr' on the command line is "a"; it should be""",
        ),
        ("train x --out r --preset smal", "there is no preset 'smal'; did you mean 'small'?"),
        ("train x --out r --config no.yaml", "settings file no.yaml does not exist"),
        ("presets smal", "there is no preset 'smal'; did you mean 'small'?"),
        ("--print-completion csh", "--print-completion takes one of bash, zsh, fish, tcsh"),
        (
            "convert a b --to vok",
            "mimicdet convert: --to is \"vok\"; it should be 'coco', 'voc' or 'yolo' (did you mean 'voc'?); see",
        ),
        (
            "explain sight m --data d --out o",
            "mimicdet explain: WHAT is \"sight\"; it should be 'alignment' or 'gap'; see",
        ),
        ("train x", "mimicdet train: missing --out RUN; see mimicdet train --help"),
        (
            "eval m --data d --tile a",
            'mimicdet eval: --tile is "a"; it should be a whole number; see mimicdet eval --help',
        ),
        (
            "eval m --data d --overlap a",
            'mimicdet eval: --overlap is "a"; it should be a number; see mimicdet eval --help',
        ),
        ("eval m --data no/such/folder", "no/such/folder"),
        ("predict m", "mimicdet predict: name image files, folders or globs"),
        ("predict m a.jpg", "mimicdet predict: say where results go"),
        ("predict m a.jpg --json o --threshold nan", "mimicdet predict: --threshold is a score from 0 to 1, not nan"),
        ("predict m a.jpg --json o --threshold -1", "mimicdet predict: --threshold is a score from 0 to 1, not -1"),
        ("check", "mimicdet check: missing DATA; see mimicdet check --help"),
        ("train", "mimicdet train: missing DATA and --out RUN; see mimicdet train --help"),
        ("train x --out", "mimicdet train: --out needs a value (RUN); see mimicdet train --help"),
        ("train x --out --resume", "mimicdet train: --out needs a value (RUN); see mimicdet train --help"),
        ("train x --out r --resume=yes", "mimicdet train: --resume takes no value; see mimicdet train --help"),
        ("train x --out r --optim.lr", "mimicdet train: --optim.lr needs a value (X); see mimicdet train --help"),
        ("train x --out r --teacher", "mimicdet train: --teacher needs a value (PATH); see mimicdet train --help"),
        (
            "train x --out r --optim 1",
            "'--optim' is a section of settings: name a key of it, such as --optim.optimizer",
        ),
        ("train x --out r --out-of 1", "mimicdet train: unknown option '--out-of'; did you mean '--out'?"),
        ("train x --out r --opset 12", "mimicdet train: unknown option '--opset'; see mimicdet train --help"),
        ("val x", "unknown command 'val'; did you mean 'eval'?"),
        ("train x --out r --pre small", "mimicdet train: unknown option '--pre'; did you mean '--preset'?"),
        ("train x --out r -x", "mimicdet train: unexpected argument '-x'; see mimicdet train --help"),
        (
            "eval m --data d --inference.nms_uoi 1",
            "mimicdet eval: unknown option '--inference.nms_uoi'; did you mean '--inference.nms_iou'?",
        ),
        (
            "eval m --data d --tile -1e3",
            'mimicdet eval: --tile is "-1e3"; it should be a whole number; see mimicdet eval --help',
        ),
        ("check no/such/folder", "no/such/folder"),
        ("train no/such/folder --out r", "no/such/folder"),
    ],
)
def test_wrong_arguments_get_one_sentence(words: str, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, *words.split()).startswith(sentence)


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("train --lr 1", "--optim.lr X"),
        ("train --learning-rate 1", "--optim.lr X"),
        ("train --imgsz 640", "--data.shorter_side X or --inference.shorter_side N"),
        ("predict m --imgsz 640", "--inference.shorter_side N"),
        ("bench m --imgsz 640", "--size HxW"),
        ("train --batch 4", "--train.batch_size N or --inference.batch_size N"),
        ("train --batchSize 4", "--train.batch_size N or --inference.batch_size N"),
        ("predict m --conf 0.5", "--threshold SCORE or --inference.score_threshold X"),
        ("eval m --conf-thres=0.5", "--inference.score_threshold X"),
        ("eval m --iou 0.5", "--inference.nms_iou X"),
        ("train --weights a.pth", "--model.weights TEXT"),
        ("predict --weights a.pth", "MODEL (no name before it)"),
        ("train --data cells", "DATA (no name before it)"),
        ("predict m --source photos", "SOURCES (no name before it) or --data DATA"),
        ("train --workers 4", "--data.workers N"),
        ("train --epochs 4", "--train.epochs N"),
        ("train --project runs", "--out RUN"),
        ("train --name mine", "--out RUN"),
        ("train --half", "--train.precision {no,bf16,fp16}"),
        ("eval m --max_det 300", "--limit N or --inference.max_detections N"),
    ],
)
def test_names_of_other_tools_are_answered_with_ours(words: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, *words.split()).endswith(f"'; here that is {hint}")


@pytest.mark.parametrize(
    ("option", "why"),
    [("patience", "there is no early stopping"), ("device", "the device is chosen outside"), ("nc", "the data set")],
)
def test_what_other_tools_have_and_we_have_not_is_said(
    option: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"'--{option}'; {why}" in complaint(capsys, "train", "x", f"--{option}", "1")


@pytest.mark.parametrize(
    "word", ["mosaic", "mixup", "cache", "rect", "dropout", "plots", "verbose", "cls", "close_mosaic"]
)
def test_no_guess_where_nothing_is_alike(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert complaint(capsys, "train", "x", f"--{word}", "1").endswith("; see mimicdet train --help")


def test_every_synonym_is_of_an_option_or_setting_that_exists() -> None:
    known = {option.name for name in COMMANDS for option in options_of(cli.command_of(name))}
    assert {name for names in synonyms._SAME for name in names} <= known
    assert {*synonyms.COMMANDS.values()} <= {*COMMANDS}
    for name in FIELDS:  # no synonym hides one of our own names
        assert not synonyms.ours(name)


# ------------------------------------------------------------------------------------------- terminals

HOSTILE = "\x1b[2J\u202e\nerror: nothing\x85\udcff"
"""Clears the screen, turns the direction of writing, forges a line, and is no UTF-8."""


def hostile_data(folder: Path) -> Path:
    """A data set whose folder, file and classes have such names; its one image is truncated."""
    root = folder / f"data{HOSTILE}"
    document = coco_document([(1, 2, 10, 12)], names=("细胞",))
    document["images"][0]["file_name"] = f"{HOSTILE}.png"
    image = write_coco(root, document=document).parent / "train" / "a.png"
    image.with_name(f"{HOSTILE}.png").write_bytes(image.read_bytes()[:60])
    return root


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii"])
def test_reports_are_printable_lines_on_any_terminal(tmp_path: Path, encoding: str) -> None:
    root = hostile_data(tmp_path)
    train = ["train", root, "--out", tmp_path / "run"]
    for words in (["check", root], *([train] if encoding == "latin-1" else [])):
        done = subprocess.run(
            [sys.executable, "-m", "mimicdet", *map(str, words)],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 2
        for stream in (done.stdout, done.stderr):
            lines = stream.decode(encoding).split("\n")
            assert all(line.isprintable() for line in lines), words
            assert not any(line.startswith("error: nothing") for line in lines), words
        assert done.stderr.startswith(b"error: ")
        assert done.stderr.count(b"\n") == 1
        assert (rb"\u7ec6\u80de" in done.stdout) == (encoding != "utf-8")


def test_a_closed_standard_output_is_no_fault(tmp_path: Path) -> None:
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m mimicdet presets >&-"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# ------------------------------------------------------------------------------------------- settings


def options(*words: str) -> Any:
    return cli.parse(words[0], list(words[1:]))


def test_train_takes_preset_file_and_overrides(tmp_path: Path) -> None:
    config = tmp_path / "my.yaml"
    config.write_text("optim:\n  lr: 0.5\n  momentum: 0.5\n")
    parsed = options(
        "train",
        "--preset",
        "small",
        "cells",
        "--config",
        str(config),
        "--optim.lr",
        "0.25",
        "--out",
        "run",
        "--data.shorter-side",
        "320",
        "400",
        "--assign.ensure_match",
        "false",
        "--no-images",
        "--resume",
    )
    expected = load_settings(preset="small", config=config).model_dump()
    expected["optim"]["lr"] = 0.25
    expected["data"]["shorter_side"] = (320, 400)
    expected["assign"]["ensure_match"] = False
    assert parsed.settings.model_dump() == expected
    assert (parsed.data, parsed.out, parsed.images, parsed.resume) == (Path("cells"), Path("run"), False, True)


def test_a_resumed_run_keeps_its_settings_unless_told_otherwise(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("optim:\n  lr: 0.5\n")
    run = ("--out", str(tmp_path))
    assert options("train", "x", *run, "--resume").settings.optim.lr == 0.5
    assert options("train", "x", *run, "--resume", "--optim.lr", "2").settings.optim.lr == 2
    assert options("train", "x", *run, "--resume", "--preset", "small").settings == load_settings(preset="small")
    assert options("train", "x", *run, "--overwrite").settings == load_settings()
    assert options("train", "x", "--out", "elsewhere", "--resume").settings == load_settings()


def test_a_folder_in_use_is_refused_before_the_data_are_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = tmp_path / "cells"
    (cells / "train").mkdir(parents=True)
    (cells / "train.json").write_text('{"images": [], "annotations": [], "categories": []}')
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").touch()
    words = ("train", str(cells), "--out", str(tmp_path / "run"))
    assert "is not empty and holds no run" in complaint(capsys, *words)
    assert "no categories" in complaint(capsys, "train", str(cells), "--out", str(tmp_path / "new"))


def test_inference_options_are_the_settings_of_that_section() -> None:
    stored = InferenceSettings(shorter_side=320)
    for words in (["eval", "m", "--data", "d"], ["predict", "m"], ["export", "m", "--format", "onnx"]):
        taken = [o.name for o in options_of(cli.command_of(words[0])) if o.argument is None]
        assert taken == [f"inference.{key}" for key in InferenceSettings.model_fields]
        assert with_options(stored, options(*words).inference, Path("m")) == stored
        given = options(*words, "--inference.nms_iou", "0.5", "--inference.dense", "--inference.flips=all").inference
        assert with_options(stored, given, Path("m")).model_dump() == {
            **stored.model_dump(),
            **{"nms_iou": 0.5, "dense": True, "flips": "all"},
        }
        with pytest.raises(UserError, match=r"'inference.nms_iou' on the command line is 2; it should be less"):
            options(*words, "--inference.nms_iou", "2")  # before any model is loaded


def test_dense_inference_can_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("predict", str(tmp_path), "photo.jpg", "--json", str(tmp_path / "found.json"))
    for given in (["--inference.dense"], ["--inference.dense", "true"], ["--inference.dense=false"]):
        assert "is not a model folder" in complaint(capsys, *words, *given)
    assert "'inference.dense' on the command line is \"perhaps\"; it should be a valid boolean" in complaint(
        capsys, *words, "--inference.dense=perhaps"
    )


# ------------------------------------------------------------------------------------------- guarded


def raising(error: BaseException) -> Any:
    def work() -> int:
        raise error

    return work


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: 0) == 0
    assert guarded(raising(UserError("x is broken; mend it"))) == 2
    assert capsys.readouterr().err == "error: x is broken; mend it\n"
    assert guarded(raising(KeyboardInterrupt("stopped"))) == 130
    assert capsys.readouterr().err == ""
    assert guarded(raising(OSError(errno.ENOSPC, "No space left on device", "out.json"))) == 2
    assert capsys.readouterr().err == "error: the disk is full (out.json): free some space and try again\n"
    assert guarded(raising(PermissionError(errno.EACCES, "Permission denied", "a.json"))) == 2
    assert capsys.readouterr().err == "error: a.json: Permission denied; correct the path or its permissions\n"
    with pytest.raises(PermissionError):  # a fault of ours, to be seen whole
        guarded(raising(PermissionError()))  # nothing that a user could mend


def test_what_ctrl_c_catches_half_made_does_not_complain() -> None:
    script = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from mimicdet.cli import guarded

class HalfMade:
    def __del__(self):
        raise AttributeError("never made")

def work():
    one = HalfMade()
    signal.raise_signal(signal.SIGINT)

sys.exit(guarded(work))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_what_a_stop_catches_half_made_does_not_complain() -> None:
    """Under the handler of an evaluation or an export."""
    script = """
import signal, sys
from mimicdet.cli import guarded
from mimicdet.engine.stop import stop_on_signals

class HalfMade:
    def __del__(self):
        raise AttributeError("never made")

def work():
    with stop_on_signals() as stop, stop.at_once():
        one = HalfMade()
        signal.raise_signal(signal.SIGTERM)

sys.exit(guarded(work))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "")


def test_what_fails_because_of_ctrl_c_is_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    """Argparse (3.11) restores in a ``finally`` what it had not saved yet."""

    def work() -> int:
        half_made: Any = object()
        try:
            raise KeyboardInterrupt
        finally:
            half_made.restored()

    assert guarded(work) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("stoppable", [False, True], ids=["in a command", "in an export"])
def test_ctrl_c_while_something_is_deleted_is_heeded(stoppable: bool) -> None:
    """Python drops what a finalizer raises."""
    script = """
from contextlib import ExitStack
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from mimicdet.cli import guarded
from mimicdet.engine.stop import stop_on_signals

class Deleted:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def work():
    with ExitStack() as stack:
        if STOPPABLE:
            stop = stack.enter_context(stop_on_signals())
            stack.enter_context(stop.at_once())
        Deleted()
    print("went on")
    return 0

sys.exit(guarded(work))
"""
    done = subprocess.run(
        [sys.executable, "-c", f"STOPPABLE = {stoppable}\n{script}"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_only_the_first_process_tells_at_once(monkeypatch: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    monkeypatch.setenv("RANK", "1")
    assert guarded(raising(UserError("broken"))) == 2
    assert pauses == [4]
    assert capsys.readouterr().err == "error: broken\n"
    monkeypatch.setenv("RANK", "0")
    assert guarded(raising(UserError("broken"))) == 2
    assert pauses == [4]


# -------------------------------------------------------------------------------- as a program of its own


def test_a_closed_pipe_is_no_error() -> None:
    command = f"{sys.executable} -m mimicdet presets | head -n 1"
    outcome = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert outcome.stdout == "atss_r50_1x\n"
    assert outcome.stderr == ""


HEAVY = ("torch", "torchvision", "timm", "numpy", "matplotlib", "accelerate", "PIL", "safetensors", "faster_coco_eval")


def imported_by(words: str) -> set[str]:
    """Every module that a command line has imported when it ends."""
    program = (
        "import sys\nfrom mimicdet.cli import main\n"
        f"try: main({words.split()!r})\nexcept SystemExit: pass\n"
        "print('imported:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("imported: ")[2].split())


@pytest.mark.parametrize(
    "words",
    [
        "--help",
        "--version",
        "presets",
        "train --help",
        "train x --out r --optim.rl 1",
        "--print-completion bash",
        *(f"{name} --help" for name in COMMANDS if name != "train"),
    ],
)
def test_nothing_heavy_is_imported_for_help_and_typing_errors(words: str) -> None:
    assert not imported_by(words) & set(HEAVY)


def test_the_overview_imports_no_command_and_no_settings() -> None:
    """It answers in the time that Python takes to start: nothing but the standard library, and few modules of ours."""
    modules = imported_by("--help")
    assert {name for name in modules if name.startswith("mimicdet")} == {"mimicdet", "mimicdet.cli", "mimicdet.errors"}
    assert not modules & {"pydantic", "yaml", "argparse", "shtab"}


def test_help_of_a_command_imports_that_command_alone() -> None:
    modules = {name for name in imported_by("train --help") if name.startswith("mimicdet.")}
    assert not [name for name in modules if name.startswith(("mimicdet.lab", "mimicdet.engine", "mimicdet.data."))]
    assert not modules & {f"mimicdet.commands.{name}" for name in COMMANDS if name != "train"}
    assert len(imported_by("train --help")) < 450


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "", "photo.jpg", "--json", "x.json"], "MODEL is empty"),
        (["predict", "m", "photo.jpg", "--json", ""], "--json is empty"),
        (["check", ""], "DATA is empty"),
        (["bench", ""], "MODELS is empty"),
        (["train", "cells", "--out", ""], " is empty"),
    ],
)
def test_an_empty_path_is_not_the_folder_at_hand(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = complaint(capsys, *words)
    assert message in told
    assert "write . for" in told


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_cost_nothing(closed: str, tmp_path: Path) -> None:
    """Nor does the first file that is opened get what was meant for them."""
    write_coco(tmp_path / "cells", document=coco_document([(1, 2, 3, 4)], names=("cat",)))
    convert = f"{sys.executable} -m mimicdet convert {tmp_path / 'cells'} {tmp_path / 'yolo'} --to yolo {closed}"
    assert subprocess.run(convert, shell=True, check=False).returncode == 0
    assert (tmp_path / "yolo" / "data.yaml").read_text().startswith("train:")
    wrong = f"{sys.executable} -m mimicdet check {tmp_path / 'nosuch'} {closed}"
    assert subprocess.run(wrong, shell=True, check=False, capture_output=True).returncode == 2


def test_too_little_memory_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        raise MemoryError

    assert guarded(work) == 2
    assert capsys.readouterr().err.startswith("error: there is not enough memory for this; ")
