"""What the comparison of two revisions' speed says; how fast anything is, no test can say."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests.benchmarks.clone import ROOT, clone, compare_with_commit

sys.path.insert(0, str(ROOT / "benchmarks"))

import against

SLOWER = """
import time
import torch.nn.functional
_as_it_was = torch.nn.functional.conv2d
def _slow(*arguments, **named):
    time.sleep(0.01)
    return _as_it_was(*arguments, **named)
torch.nn.functional.conv2d = _slow
"""
MOST = {"step": 1.02, "prediction": 1.02, "validation": 0.9}


@pytest.mark.slow
def test_sees_that_each_kind_of_work_takes_longer(tmp_path: Path) -> None:
    few = "--processes 1 --epochs 2 --steps 2 --images 2 --predictions 2"
    done = compare_with_commit(clone(tmp_path, SLOWER), "against.py", *few.split())
    assert done.returncode == 1, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines() if line.startswith(against.KINDS)}
    assert set(rows) == set(against.KINDS)
    assert all(line.endswith("missed") for line in rows.values())


@pytest.mark.parametrize("now_first", [False, True])
def test_one_works_while_the_other_waits(now_first: bool) -> None:
    log: list[str] = []
    work = ["first step", "step", "validation", "first step", "step", "step", "validation", "prediction", "end"]
    found = list(against.alternated(_side("before", work, log), _side("now", work, log), now_first=now_first))
    assert [kind for kind, _, _ in found] == ["step", "step", "validation", "prediction"]  # the first epoch warms up
    assert all((before, now) == (1.0, 2.0) for _, before, now in found)
    turns = [log[i : i + 2] for i in range(0, len(log), 2)]
    first, second = ("now", "before") if now_first else ("before", "now")
    assert turns == [[first, second] if i % 2 == 0 else [second, first] for i in range(len(work))]


def test_two_that_do_different_things_cannot_be_compared() -> None:
    with pytest.raises(SystemExit, match="'step' before, 'validation' now"):
        list(against.alternated(_side("before", ["step"], []), _side("now", ["validation"], []), now_first=False))


def test_a_process_that_ends_early_is_told() -> None:
    with pytest.raises(SystemExit, match="ended early"):
        list(against.alternated(_side("before", ["step"], []), _side("now", [], []), now_first=False))


@pytest.mark.parametrize(
    ("validation", "code", "shown"), [(0.89, 0, " 0.890 "), (0.91, 1, " 0.910 "), (1.3, 1, "0.9, missed")]
)
def test_report(validation: float, code: int, shown: str, capsys: pytest.CaptureFixture[str]) -> None:
    even = [(1.0, 1.0)] * 100
    assert against.report({"step": even, "prediction": even, "validation": [(1.0, validation)] * 3}, MOST) == code
    out = capsys.readouterr().out
    assert shown in out
    assert "1.000..1.000" in out
    assert "too few" in out


def test_ratios_are_of_pairs_and_outliers_do_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    slow_hours = [(t, 1.01 * t) for t in (1.0, 2.0, 1.0, 3.0, 1.0, 5.0)] + [(1.0, 30.0)]
    assert against.report({"step": slow_hours}, MOST) == 0
    assert " 1.010 " in capsys.readouterr().out


def _side(name: str, work: Sequence[str], log: list[str]) -> Connection:
    """A process's end of the line, played by a thread; now takes twice as long as before."""
    ours, theirs = Pipe()

    def play() -> None:
        for kind in work:
            theirs.recv()
            log.append(name)
            theirs.send((kind, 2.0 if name == "now" else 1.0))
        theirs.close()

    threading.Thread(target=play, daemon=True).start()
    return ours
