"""What the comparison of two revisions says, and that it can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import frozen  # noqa: E402
from frozen_runs import TRAININGS, chosen  # noqa: E402
from rectangles import write_split  # noqa: E402
from revision import checked_out  # noqa: E402

CHANGE = """
import torch.nn.functional
_as_it_was = torch.nn.functional.group_norm
torch.nn.functional.group_norm = lambda *arguments, **named: _as_it_was(*arguments, **named) * 1.0001
"""


def test_names_what_differs_and_only_that(tmp_path: Path) -> None:
    done = _compare_with_commit(_clone(tmp_path, CHANGE), "detect fcos")
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
    assert "worktree" in _git(tmp_path / "clone", "worktree", "list", "--porcelain")
    assert _git(tmp_path / "clone", "worktree", "list", "--porcelain").count("worktree") == 1


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


def _clone(folder: Path, change: str) -> Path:
    """A repository of its own with this package committed, changed in the working tree only."""
    clone = folder / "clone"
    for name in ("src", "benchmarks"):
        shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    _git(clone, "init", "--quiet")
    _git(clone, "add", ".")
    _git(clone, "-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "--quiet", "-m", "as it was")
    with (clone / "src/mimicdet/__init__.py").open("a") as file:
        file.write(change)
    return clone


def _compare_with_commit(clone: Path, only: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(clone / "benchmarks/frozen.py"), "--against", "HEAD", "--only", only]
    return subprocess.run(words, capture_output=True, text=True, cwd=clone.parent)


def _git(clone: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", str(clone), *words], check=True, capture_output=True, text=True).stdout
