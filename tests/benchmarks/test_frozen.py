"""What the comparison of two revisions says, and that it can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.clone import ROOT, clone, compare_with_commit, git

sys.path.insert(0, str(ROOT / "benchmarks"))

import frozen
from frozen_runs import TRAININGS, chosen
from rectangles import write_split
from revision import checked_out

CHANGE = """
import torch.nn.functional
_as_it_was = torch.nn.functional.group_norm
torch.nn.functional.group_norm = lambda *arguments, **named: _as_it_was(*arguments, **named) * 1.0001
"""


@pytest.mark.slow
def test_names_what_differs(tmp_path: Path) -> None:
    made = clone(tmp_path, CHANGE)
    done = compare_with_commit(made, "frozen.py", "--only", "detect fcos")
    rows = dict(line.rsplit(None, 3)[::3] for line in done.stdout.splitlines() if line.endswith((" yes", " NO")))
    assert done.returncode == 1, done.stderr
    assert set(rows.values()) == {"NO"}
    assert {name.partition(": ")[2] for name in rows} >= {
        "losses",
        "gradient norm",
        "checkpoint",
        "model",
        "detections",
    }
    assert "only now: " in done.stdout
    assert git(made, "worktree", "list", "--porcelain").count("worktree ") == 1


def test_a_command_that_fails_ends_the_program_with_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frozen, "HEAVY", [])
    with pytest.raises(SystemExit, match=r"ended with 2:\n.*name image files"):
        frozen.Commands(tmp_path / "log.txt").run(["predict", "model"])


def test_waits_for_all_but_not_for_one_whose_fellow_has_failed() -> None:
    done, endless, failed = (subprocess.Popen(words) for words in (["true"], ["sleep", "60"], ["false"]))
    frozen._wait([done])
    with pytest.raises(SystemExit, match="could not be run"):
        frozen._wait([done, endless, failed])
    endless.kill()


def test_a_revision_that_git_does_not_know_is_named() -> None:
    with pytest.raises(SystemExit, match="nonsense cannot be checked out"), checked_out("nonsense"):
        raise AssertionError


@pytest.mark.parametrize(
    ("now", "code", "said"),
    [
        ({"a": ["1", "2"], "b": ["3"]}, 0, "2 of 2 are equal"),
        ({"a": ["2", "1"], "b": ["3"]}, 0, "2 of 2 are equal"),
        ({"a": ["1", "2"], "b": ["4"]}, 1, "only now: 1 of 1: 4"),
        ({"a": ["1", "2"], "b": ["3", "3"]}, 1, "only now: 1 of 2: 3"),
        ({"a": ["1", "2"]}, 1, "missing"),
        ({"a": ["1", "2"], "b": ["3"], "c": []}, 1, "2 of 3 are equal"),
    ],
)
def test_report(now: dict[str, list[str]], code: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert frozen.report({"a": ["1", "2"], "b": ["3"]}, now) == code
    assert said in capsys.readouterr().out


def test_every_task_and_family_is_frozen() -> None:
    options = " ".join(training.options for training in TRAININGS)
    for family in ("mimicdet", "retinanet", "fcos", "atss", "gfl", "faster_rcnn"):
        assert any(training.name == f"detect {family}" and training.predictions for training in TRAININGS)
    for word in ("shared", "separate", "heavy", "light"):
        assert any(training.name.startswith(f"mimic {word}") for training in TRAININGS)
    for loss in ("rank", "imitation", "whole_map", "correlation", "soft_labels", "cross"):
        assert f"--distill.{loss} " in options


def test_teachers_come_before_what_they_teach() -> None:
    names = [training.name for training in chosen("distill atss")]
    assert names == ["detect faster_rcnn", "distill atss from faster_rcnn"]
    for training in TRAININGS:
        order = [other.name for other in chosen(training.name)]
        assert all(order.index(teacher) < order.index(training.name) for teacher in training.teachers)


def test_the_data_set_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_split(tmp_path / name, "train", ((40, 60), (30, 30), (50, 40)), seed=1, crowd=True)
    files = [sorted(path for path in (tmp_path / name).rglob("*") if path.is_file()) for name in ("one", "two")]
    assert len(files[0]) == 4
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
