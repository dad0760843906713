"""Settings from preset, file and command line, and the one sentence that each kind of mistake gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mimicdet.commands.parser import COMMAND_LINE, parse_as
from mimicdet.commands.train import Train
from mimicdet.config import MimicDetSettings, Settings, fields_of
from mimicdet.errors import UserError
from mimicdet.settings_file import (
    FIELDS,
    Layer,
    dump_settings,
    load_settings,
    parse_yaml,
    preset_header,
    preset_names,
    read_layer,
    resolve,
    suggestion,
)


def write(folder: Path, text: str) -> Path:
    file = folder / "my.yaml"
    file.write_text(text)
    return file


def asked(*words: str) -> Layer:
    """The settings on a command line of `mimicdet train`."""
    command = parse_as(Train, "mimicdet train", ["cells", "--out", "run", *words])
    return Layer(COMMAND_LINE, command.changes)


def from_words(*words: str) -> Settings:
    return resolve([asked(*words)])


def sentence(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# ---------------------------------------------------------------------------------------- precedence


def test_nothing_given_is_the_defaults() -> None:
    assert load_settings() == MimicDetSettings()


def test_later_layers_win_key_by_key(tmp_path: Path) -> None:
    config = write(tmp_path, "optim:\n  lr: 0.5\n  momentum: 0.5\ntrain:\n  epochs: 5\n")
    overrides = asked("--optim.lr", "0.25")
    settings = load_settings(preset="paper_r50_2x", config=config, changes=overrides.values, source=overrides.source)
    assert settings.optim.lr == 0.25  # the command line over the file
    assert settings.optim.momentum == 0.5  # the file over the preset
    assert settings.train.epochs == 5
    assert settings.optim.milestones == (16.0, 22.0)  # the preset over the defaults
    assert settings.optim.gamma == MimicDetSettings().optim.gamma


def test_an_empty_file_and_an_empty_section_change_nothing(tmp_path: Path) -> None:
    assert load_settings(config=write(tmp_path, "")) == MimicDetSettings()
    assert load_settings(config=write(tmp_path, "optim:\n  # lr: 1\ntask: detect\n")) == MimicDetSettings(task="detect")


@pytest.mark.parametrize("name", [None, *preset_names()])
def test_resolved_settings_load_again(name: str | None, tmp_path: Path) -> None:
    overrides = asked("--data.shorter_side", "640", "800", "--train.trackers", "tensorboard")
    settings = load_settings(preset=name, changes=overrides.values, source=overrides.source)
    file = write(tmp_path, dump_settings(settings))
    assert load_settings(config=file) == settings
    assert list(read_layer(file).values) == list(
        fields_of(type(settings))
    )  # complete: it stays the same when a default changes


def test_resolved_settings_mean_the_same_to_other_yaml_readers() -> None:
    settings = load_settings(preset="paper_r50_1x")
    assert yaml.safe_load(dump_settings(settings)) == json.loads(settings.model_dump_json())


# --------------------------------------------------------------------------------- YAML, as 1.2 reads it


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("5E+2", 500.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("7", 7),
        ("-7", -7),
        ("no", "no"),
        ("off", "off"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("1:30", "1:30"),
        ("010", "010"),
        ("2020-01-01", "2020-01-01"),
        ("1_000", "1_000"),
        ("'7'", "7"),
        ("[1, 2e1]", [1, 20.0]),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    result = parse_yaml(f"key: {text}", "here")["key"]
    assert result == value
    assert type(result) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives_as_python_writes_it(value: float) -> None:
    assert parse_yaml(f"[{value!r}]", "here") == [value]
    assert asked("--optim.lr", repr(value)).values == {"optim.lr": value}


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("optim:\n  lr: [1\n", "my.yaml, line "),
        ("a: 1\na: 2", "line 2: not valid YAML: key 'a' is given twice"),
        ("a: &x [1]\nb: *x", "line 2: not valid YAML: aliases"),
        ("[a]: 1", "line 1: not valid YAML: a key must"),
        ("{}: 1", "line 1: not valid YAML: a key must"),
        ("\x00", "not valid YAML"),
        ("- 1", "holds no settings"),
        ("just words", "holds no settings"),
        ("a: !!python/object:os.system {}", "line 1: not valid YAML"),
        ("a:\n\t- b", "line 2: not valid YAML"),
    ],
)
def test_broken_yaml_names_file_and_line(text: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_layer(write(tmp_path, text))
    assert "my.yaml" in sentence(error)
    assert part in sentence(error)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml does not exist"):
        read_layer(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_layer(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")
    with pytest.raises(UserError, match=r"latin.yaml cannot be read"):
        read_layer(tmp_path / "latin.yaml")


# ------------------------------------------------------------------------------------------ unknown keys


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("optim.learning_rate", "optim.lr"),
        ("lr", "optim.lr"),
        ("optmi.lr", "optim.lr"),
        ("optim.wd", "optim.weight_decay"),
        ("epochs", "train.epochs"),
        ("train.epoch", "train.epochs"),
        ("train.lr", "optim.lr"),
        ("assign.ensurematch", "assign.ensure_match"),
        ("data.shorter-side", "data.shorter_side"),
        ("batch_size", "train.batch_size"),
        ("inference.nms", "inference.nms_iou"),
        ("tsak", "task"),
    ],
)
def test_suggestions(wrong: str, right: str) -> None:
    assert suggestion(wrong) == f"did you mean '{right}'?"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("lr: 1", "did you mean 'optim.lr'? (write 'lr: ...' below 'optim:')"),
        ("optim: {lr0: 1}", "did you mean 'optim.lr'?"),
        (
            "imgsz: 640",
            "did you mean 'data.shorter_side' or 'inference.shorter_side'? (write 'shorter_side: ...' below",
        ),
        ("train: {batch: 2}", "did you mean 'train.batch_size'?"),
        ("patience: 3", "there is no early stopping"),
        ("mosaic: 1", "`mimicdet train --help` lists them all"),
    ],
)
def test_names_of_other_tools_in_a_file(text: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_layer(write(tmp_path, text))
    assert sentence(error).partition("; ")[2].startswith(hint)


def test_no_suggestion_where_nothing_is_near() -> None:
    assert suggestion("xyzzy") == "`mimicdet train --help` lists them all"


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_one_slip_in_any_setting_is_answered_with_it(name: str) -> None:
    section, _, key = name.rpartition(".")
    slip = f"{section}.{key[:-1]}" if section else key[:-1]
    if slip not in FIELDS:
        assert suggestion(slip) == f"did you mean '{name}'?"


def test_unknown_key_in_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_layer(write(tmp_path, "optim:\n  learning_rate: 0.1\n"))
    assert sentence(error) == f"unknown setting 'optim.learning_rate' in {tmp_path}/my.yaml; did you mean 'optim.lr'?"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("lr: 1", "unknown setting 'lr' in"),
        ("optim.lr: 1", "should be nested: 'optim:' and 'lr: ...' below it"),
        ("optim: 3", "is a section"),
        ("optim: [1]", "is a section"),
        ("1: 2", "unknown setting '1'"),
        ("optmi:\n  lr: 3", "unknown setting 'optmi'"),
        ("<<: {a: 1}", "unknown setting '<<'"),
    ],
)
def test_misplaced_keys(text: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_layer(write(tmp_path, text))
    assert part in sentence(error)


def test_unknown_preset() -> None:
    with pytest.raises(UserError, match="there is no preset 'smal'; did you mean 'small'"):
        load_settings(preset="smal")
    with pytest.raises(UserError, match="there are atss_r50_1x, atss_r50_2x, demo, "):
        load_settings(preset="zzz")
    with pytest.raises(UserError, match="--config"):
        load_settings(preset="my.yaml")
    with pytest.raises(UserError, match="no preset"):
        load_settings(preset="../presets/small")


# ----------------------------------------------------------------------------------------- wrong values


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("optim: {lr: fast}", """setting 'optim.lr' in FILE is "fast"; it should be a valid number"""),
        ("optim: {lr: '0.1'}", """setting 'optim.lr' in FILE is "0.1"; it should be a valid number"""),
        ("optim: {lr: -1}", "setting 'optim.lr' in FILE is -1; it should be greater than 0"),
        ("optim: {lr: }", "setting 'optim.lr' in FILE is empty; it should be a valid number"),
        ("optim: {lr: .inf}", "setting 'optim.lr' in FILE is Infinity; it should be a finite number"),
        ("train: {epochs: 1.5}", "setting 'train.epochs' in FILE is 1.5; it should be a valid integer"),
        ("train: {epochs: true}", "setting 'train.epochs' in FILE is true; it should be a valid integer"),
        ("train: {precision: half}", """is "half"; it should be 'no', 'bf16' or 'fp16'"""),
        ("assign: {ensure_match: 1}", "setting 'assign.ensure_match' in FILE is 1; it should be a valid boolean"),
        ("data: {shorter_side: 800}", "setting 'data.shorter_side' in FILE is 800; it should be a list"),
        ("data: {shorter_side: [a]}", """setting 'data.shorter_side' in FILE is ["a"]; "a" in it should be a valid"""),
        ("data: {scale_jitter: [1.0]}", "'data.scale_jitter' in FILE is [1.0]; it should be a list of 2 values"),
        ("data: {scale_jitter: [2, 1]}", "is [2, 1]; it should have the smaller factor first: 1 2"),
        ("optim: {milestones: [3, 2]}", "is [3, 2]; it should ascend: 2 3"),
        ("train: {seed: 99999999999999999999999}", "it should be less than 9223372036854775808"),
        ("data: {shorter_side: []}", "'data.shorter_side' in FILE is []; it should be a list of one value or more"),
        ("data: {scale_jitter: [1, 2, 3]}", "is [1, 2, 3]; it should be a list of 2 values"),
        ("model: {backbone: [a]}", """is ["a"]; it should be a valid string"""),
        ("task: swim", """setting 'task' in FILE is "swim"; it should be 'mimic', 'detect' or 'distill'"""),
        ("model: {levels: [3, 5]}", "model.levels must be consecutive pyramid levels from 2 up"),
        ("model: {levels: [3, 4]}", "teacher.levels [2, 3, 4, 5, 6] must name one level for each of"),
    ],
)
def test_wrong_values_name_source_key_value_and_what_is_expected(text: str, part: str, tmp_path: Path) -> None:
    file = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        load_settings(config=file)
    assert part.replace("FILE", str(file)) in sentence(error)
    assert f"in {file}" in sentence(error)


def test_the_layer_that_set_the_value_is_named(tmp_path: Path) -> None:
    config = write(tmp_path, "optim:\n  lr: 0.5\n")
    overrides = asked("--optim.lr", "abc")
    with pytest.raises(UserError, match=r"'optim.lr' on the command line is \"abc\""):
        load_settings(config=config, changes=overrides.values, source=overrides.source)


# --------------------------------------------------------------------------------------- command line


def test_overrides_of_each_type() -> None:
    settings = from_words(
        "--optim.lr",
        "1e-2",
        "--data.shorter_side",
        "640",
        "800",
        "--assign.ensure_match",
        "False",
        "--train.precision",
        "no",
        "--model.backbone",
        "123",
        "--data.scale-jitter",
        "0.5",
        "2",
        "--task=detect",
        "--train.epochs=3",
        "--optim.milestones=1,2.5",
        "--data.voc_one_based",
        "--train.trackers",
        "[]",
        "--model.kernel_size",
        "3",
        "--optim.warmup_factor",
        "0",
    )
    assert settings.optim.lr == 0.01
    assert settings.data.shorter_side == (640, 800)
    assert settings.assign.ensure_match is False
    assert settings.train.precision == "no"
    assert settings.model.backbone == "123"
    assert settings.data.scale_jitter == (0.5, 2.0)
    assert settings.task == "detect"
    assert settings.train.epochs == 3
    assert settings.optim.milestones == (1.0, 2.5)
    assert settings.data.voc_one_based is True
    assert settings.train.trackers == ()
    assert settings.model.kernel_size == 3


def test_overrides_leave_other_arguments_alone() -> None:
    for words in (
        ["--optim.lr", "0.1", "cells", "--out", "run.d", "--assign.ensure_match"],
        ["--optim.lr", "0.1", "--out", "run.d", "--assign.ensure_match", "cells"],
        ["cells", "--optim.lr=0.1", "--assign.ensure_match", "--out=run.d"],
        ["--assign.ensure_match", "true", "cells", "--optim.lr", "0.1", "--out", "run.d"],
    ):
        command = parse_as(Train, "mimicdet train", words)
        assert command.changes == {"optim.lr": 0.1, "assign.ensure_match": True}
        assert (command.data, command.out) == (Path("cells"), Path("run.d"))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--optim.learning_rate", "1"], "unknown setting '--optim.learning_rate'; did you mean '--optim.lr'?"),
        (["--optim", "1"], "'--optim' is a section of settings: name a key of it, such as --optim.optimizer"),
        (["--optim.lr"], "--optim.lr needs a value"),
        (["--optim.lr", "--train.epochs", "3"], "--optim.lr needs a value"),
        (["--data.shorter_side"], "--data.shorter_side needs a value"),
        (["--data.shorter_side", "[1"], "--data.shorter_side, line 1: not valid YAML"),
    ],
)
def test_bad_overrides(words: list[str], part: str) -> None:
    with pytest.raises(UserError) as error:
        asked(*words)
    assert part in sentence(error)


def test_a_negative_number_is_a_value() -> None:
    assert asked("--optim.lr", "-1e-3", "--train.seed", "3").values == {"optim.lr": -0.001, "train.seed": 3}
    assert asked("--data.scale_jitter", "-1e-3", "-2").values == {"data.scale_jitter": [-0.001, -2]}


def test_unknown_key_in_a_layer_made_by_hand() -> None:
    with pytest.raises(UserError, match=r"unknown setting 'optim\.rl' in a script"):
        resolve([Layer("in a script", {"optim.rl": 1})])


def test_header_is_the_comment_on_top() -> None:
    lines = preset_header("small")
    assert lines[0]
    assert not any(line.startswith("#") or "task:" in line for line in lines)
