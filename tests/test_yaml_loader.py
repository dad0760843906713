"""YAML of any origin: what is hostile or broken is told in one sentence, soon and in little memory."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from mimicdet.data.check import check_dataset
from mimicdet.data.splits import find_splits
from mimicdet.lab.study.study_file import read_study
from mimicdet.settings_file import read_layer
from mimicdet.yaml_loader import MAX_CHARACTERS, BrokenYamlError, load_yaml
from tests.fakes.small_sets import error_of, write_yolo


def _blow_up(levels: int = 9) -> str:
    names = "abcdefghij"[:levels]
    lines = [f"a: &a [{','.join('x' * 9)}]"]
    lines += [f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]" for before, name in itertools.pairwise(names)]
    return "\n".join(lines)


HOSTILE = {
    "a date that is none": "x: !!timestamp abc",
    "a tag of no plain value": "x: !!binary aGk=",
    "a tag that runs code": "x: !!python/object/apply:os.system [ls]",
    "a tag of nobody": "x: !mine 3",
    "an int that is none": "x: !!int abc",
    "an int by a tag that only YAML 1.1 reads": "x: !!int 1_0",
    "a float that is none": "x: !!float abc",
    "a bool that is none": "x: !!bool abc",
    "a null that is none": "x: !!null abc",
    "a list that is none": "x: !!seq abc",
    "an int that is a list": "x: !!int [1]",
    "5,000 digits": "x: " + "9" * 5_000,
    "5,000 digits, negative": "x: -" + "9" * 5_000,
    "400 digits": "x: " + "9" * 400,
    "5,000 digits as a key": "9" * 5_000 + ": x",
    "5,000 digits in a directive": f"%YAML 1.{'9' * 5_000}\n--- 1",
    "nested lists": "x: " + "[" * 100_000,
    "nested lists, closed": "x: " + "[" * 500 + "]" * 500,
    "nested mappings": "x: " + "{a: " * 5_000,
    "nested dashes": "- " * 20_000,
    "nested keys": "? " * 20_000,
    "nested by indentation": "".join(f"{' ' * depth}a:\n" for depth in range(200)),
    "aliases that blow up": _blow_up(),
    "an alias of itself": "x: &x [*x]",
    "an alias of itself in a mapping": "x: &x {a: *x}",
    "an alias of nothing": "x: *nothing",
    "merge keys": "a: &a {b: 1}\nx: {<<: *a}",
    "a key twice": "x: 1\nx: 2",
    "a key that is a list": "[a]: 1",
    "an escape beyond Unicode": r'x: "\U00110000"',
    "half of a character": r'x: "\ud800"',
    "a control character": "x: \x1b[2J",
    "two documents": "x: 1\n--- \nx: 2",
    "a long text": "x: " + "a" * (MAX_CHARACTERS + 1),
}


LARGE = ["x: [" + "a," * 400_000 + "]", "".join(f"k{number}: 1\n" for number in range(60_000))]


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("data_set", [False, True], ids=["settings", "data set"])
def test_hostile_yaml_is_refused_in_a_sentence(text: str, data_set: bool) -> None:
    with pytest.raises(BrokenYamlError) as caught:
        load_yaml(text, data_set=data_set)
    assert 0 < len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


def test_refusing_takes_little_time_and_memory(tmp_path: Path) -> None:
    """In a process of its own, whose memory is that of the loader alone; allowed is twice what is promised."""
    (tmp_path / "texts.json").write_text(json.dumps([*LARGE, *HOSTILE.values()]))
    code = """
import json, resource, sys, time
from mimicdet.yaml_loader import BrokenYamlError, load_yaml
texts, before = json.load(open(sys.argv[1])), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for text in texts:
    start = time.process_time()
    try:
        print("read", load_yaml(text, data_set=True))
    except BrokenYamlError:
        assert time.process_time() - start < 2, text[:20]
assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 100
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "texts.json")], capture_output=True, text=True)
    assert run.stdout + run.stderr == ""


@pytest.mark.parametrize("name", ["an int that is none", "5,000 digits", "nested lists", "aliases that blow up"])
def test_every_reader_of_yaml_tells_it_with_the_file(tmp_path: Path, name: str) -> None:
    file = tmp_path / "data.yaml"
    file.write_text(f"names: [cat]\ntrain: images\n{HOSTILE[name]}\n")
    for read in (read_layer, read_study, find_splits):
        assert str(file) in error_of(read, file)
    assert str(file) in error_of(find_splits, tmp_path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x: !!str 3", {"x": "3"}),
        ("x: !!float 1", {"x": 1.0}),
        ("x: !!int 3", {"x": 3}),
        ("x: !!bool true", {"x": True}),
        ("x: !!null ''", {"x": None}),
        ("x: !!seq [a]", {"x": ["a"]}),
        ("x: 2020-99-99", {"x": "2020-99-99"}),
        ("x: 1_0", {"x": "1_0"}),
        ("x: 012", {"x": "012"}),
        ("x: １２", {"x": "１２"}),
        ("x: 1:30", {"x": "1:30"}),
        ("x: 0x10", {"x": "0x10"}),
        (f"x: {'9' * 300}", {"x": int("9" * 300)}),
    ],
)
@pytest.mark.parametrize("data_set", [False, True], ids=["settings", "data set"])
def test_plain_values(text: str, value: Any, data_set: bool) -> None:
    assert load_yaml(text, data_set=data_set) == value


def test_a_data_set_may_name_a_list_twice_as_tools_write_it() -> None:
    folders = ["images/a", "images/b"]
    document = {"train": folders, "val": folders, "names": ["cat", "dog"]}
    text = yaml.safe_dump(document)
    assert "*id001" in text
    assert load_yaml(text, data_set=True) == document


def test_class_names_stay_as_they_are_written() -> None:
    assert load_yaml("[1e3, 1.50, 007, cat, 3]", data_set=True) == ["1e3", "1.50", "007", "cat", 3]


# PyYAML writes these line breaks as they are, and reads them as spaces. It writes the text 1E5 without quotes, which
# is a number here, as in YAML 1.2
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029")).filter(
    lambda text: re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+", text) is None
)


@given(st.recursive(st.none() | st.booleans() | st.integers() | TEXTS, st.lists))
def test_what_pyyaml_writes_is_read_back(value: Any) -> None:
    written = yaml.safe_dump({"x": value}, allow_unicode=True)
    assert load_yaml(written) == {"x": value}


@given(st.text(alphabet="&*!<>[]{},:-?|%@`\"'#ab01 \n\\", max_size=60))
def test_no_text_falls_over(text: str) -> None:
    try:
        load_yaml(text, data_set=True)
    except BrokenYamlError:
        return


def test_data_yaml_of_a_good_set_with_a_strange_date_is_read(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    file = tmp_path / "data.yaml"
    file.write_text(file.read_text() + "date: 2020-99-99\n")
    assert check_dataset(tmp_path).ok
