"""Some mutants of each kind, and that the judge and the limits find what they are there for."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mimicdet.data.raw import RawSplit
from mimicdet.errors import UserError
from tests.faults.cases import KINDS, trial
from tests.faults.images import trial as image_trial
from tests.faults.judge import Mutant, Outcome, judge
from tests.faults.pool import try_all

FEW = {"COCO": 60, "VOC": 40, "YOLO": 40, "settings": 20, "study": 20, "image": 25}
"""Those that need a trained model are left to ``make test-faults``."""


@pytest.mark.parametrize("kind", FEW)
def test_mutants_are_refused_or_accepted_right(kind: str, tmp_path: Path) -> None:
    jobs = [(kind, 50_000 + n) for n in range(FEW[kind])]
    chosen = image_trial if kind == "image" else trial
    outcomes = list(try_all(jobs, chosen, tmp_path, workers=1))
    assert [outcome for outcome in outcomes if outcome.verdict == "failed"] == []
    assert {outcome.verdict for outcome in outcomes} == {"refused", "right"}


def test_there_are_ten_thousand() -> None:
    assert sum(kind.total for kind in KINDS.values()) == 10_000


def _said(text: str) -> UserError:
    """An error that says the very text; by itself it would mend it."""
    error = UserError("")
    error.args = (text,)
    return error


def _raises(error: BaseException) -> Mutant:
    def run() -> None:
        raise error

    return Mutant("m", run, lambda value: None, None, (), ("a.json",))


@pytest.mark.parametrize(
    ("mutant", "verdict", "fault"),
    [
        (_raises(UserError("a.json: is broken; mend it")), "refused", ""),
        (_raises(UserError("it is broken")), "failed", "message names no file"),
        (_raises(_said("a.json: \x1b[2J")), "failed", "message not printable"),
        (_raises(_said("a.json: " + "y " * 2000)), "failed", "message too long"),
        (_raises(_said("a.json: " + "x" * 100)), "failed", "message too long"),
        (_raises(KeyError("id")), "failed", "traceback of KeyError"),
        (Mutant("m", lambda: 1, lambda value: None, None), "right", ""),
        (Mutant("m", lambda: 1, lambda value: "other boxes", None), "failed", "accepted wrong: other boxes"),
        (Mutant("m", lambda: 1, lambda value: None, True), "failed", "accepted though it must be refused"),
        (replace(_raises(UserError("a.json: no")), refuse=False), "failed", "refused though it is right"),
    ],
)
def test_the_judge(mutant: Mutant, verdict: str, fault: str) -> None:
    found = judge(mutant)
    assert found[0] == verdict
    assert found[1].startswith(fault)


def _bad_trial(kind: str, seed: int, place: Path) -> Outcome:
    if kind == "slow":
        while True:
            pass
    if kind == "large":
        b"x" * (400 << 20)
    if kind == "dies":
        import os

        os._exit(9)
    return Outcome(kind, seed, "", "right")


def test_a_wrong_box_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add = RawSplit.add

    def moved(raw: RawSplit, owner: int, box: Any, *rest: Any, **named: Any) -> None:
        add(raw, owner, (box[0] + 0.05, *box[1:]), *rest, **named)

    monkeypatch.setattr(RawSplit, "add", moved)
    for kind in ("COCO", "VOC", "YOLO"):
        outcomes = [trial(kind, 60_000 + n, tmp_path) for n in range(25)]
        assert any(outcome.fault.startswith("accepted wrong") for outcome in outcomes), kind


def test_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.pool.MOST_SECONDS", 1.0)
    monkeypatch.setattr("tests.faults.pool.MOST_BYTES", 200 << 20)
    jobs = [("fine", 1), ("slow", 2), ("dies", 3), ("fine", 4), ("large", 5)]
    began = time.monotonic()
    outcomes = list(try_all(jobs, _bad_trial, tmp_path, workers=1))
    faults = [outcome.fault.partition(":")[0] for outcome in outcomes]
    assert faults == ["", "takes too long", "process died", "", "takes too much memory"]
    assert time.monotonic() - began < 120
