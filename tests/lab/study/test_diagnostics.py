"""What is kept of a log's end."""

from __future__ import annotations

import csv
import io
from typing import Any

import pytest

from mimicdet.lab.study.outcome import last_diagnostics
from mimicdet.lab.study.report import diagnostics_csv


def train(epoch: float, **diagnostics: float | None) -> dict[str, Any]:
    named = {f"diag/{name}": value for name, value in diagnostics.items()}
    return {"kind": "train", "step": 1, "epoch": epoch, "loss": 9.0, **named}


LOG = [
    train(0.5, recall_50=0.1),
    train(1.0, recall_50=0.2, cosine_box_p7=0.9),  # the first epoch's end
    {"kind": "eval", "step": 2, "epoch": 1.0, "AP": 0.1, "teacher/AP": 0.05},
    train(1.5, recall_50=0.4, cosine_box_p3=0.5),
    train(2.0, recall_50=0.6, cosine_box_p3=None, cosine_box_p7=None),
    {"kind": "eval", "step": 4, "epoch": 2.0, "teacher/AP": 0.25, "teacher/AP75": 0.125, "teacher/APl": -1.0},
]


def test_means_over_the_last_epoch_and_the_teachers_last_evaluation() -> None:
    assert last_diagnostics(LOG) == pytest.approx(
        {"recall_50": 0.5, "cosine_box_p3": 0.5, "teacher/AP": 0.25, "teacher/AP75": 0.125}
    )


@pytest.mark.parametrize("log", [[], [{"kind": "eval", "AP": 0.2}], [{"kind": "train", "epoch": 0.5, "loss": 1.0}]])
def test_a_log_without_any_has_none(log: list[dict[str, Any]]) -> None:
    assert last_diagnostics(log) == {}


def test_the_table_has_a_line_for_each_run_that_has_any() -> None:
    found = {
        ("no T-head", 0): {"recall_50": 0.51234},
        ("kept by an older version", 0): {},
        ("T-head, mimicking", 1): {"recall_50": 0.5, "cosine_box": 0.75},
    }
    lines = list(csv.DictReader(io.StringIO(diagnostics_csv(found))))
    assert lines == [
        {"run": "no T-head", "seed": "0", "recall_50": "0.5123", "cosine_box": ""},
        {"run": "T-head, mimicking", "seed": "1", "recall_50": "0.5", "cosine_box": "0.75"},
    ]
    assert diagnostics_csv({("kept by an older version", 0): {}}) == diagnostics_csv({}) == ""
