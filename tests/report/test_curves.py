"""Curves: every number that a run logs is drawn, once, whatever state its file is in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mimicdet.errors import UserError
from mimicdet.report import curves
from mimicdet.report.curves import _panels, _running_mean, _style, draw_curves

TRAIN = {
    "kind": "train",
    "step": 20,
    "epoch": 0.5,
    "lr": 0.01,
    "loss": 3.0,
    "s_boxes": 1.0,
    "mimic_boxes": 0.4,
    "diag/recall_50": 0.7,
    "diag/cosine_box": -0.1,
    "diag/anchor_positives_p3": 12.0,
    "diag/proposals": 900.0,
    "diag/offset_length": 1.2,
    "diag/offset_length_p3": 1.1,
    "diag/learned_offset_p3": 0.2,
    "diag/something_new": 5.0,
    "grad_norm": 4.0,
    "grad_norm/backbone": 2.0,
    "seconds": 3.0,
    "skipped_steps": 0,
}
EVAL = {"kind": "eval", "step": 40, "epoch": 1.0, "AP": 0.2, "AP50": 0.5, "APs": -1, "teacher/AP": 0.3}


def write(path: Path, records: list[dict[str, Any]], tail: str = "") -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records) + tail)
    return path


def test_every_number_but_the_bookkeeping_has_its_place():
    drawn = [name for panel in _panels([TRAIN, EVAL]) for name in panel.names]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == set(TRAIN) - {"kind", "step", "epoch", "seconds", "skipped_steps"} | set(EVAL) - {
        "kind",
        "step",
        "epoch",
        "APs",
    }
    (own,) = (panel for panel in _panels([TRAIN, EVAL]) if "diag/offset_length_p3" in panel.names)
    assert own.names == ("diag/offset_length_p3",), "not among the shares, which end at 1"
    (accuracy,) = (panel for panel in _panels([TRAIN, EVAL]) if "teacher/AP" in panel.names)
    student, teacher = (_style(accuracy, accuracy.names.index(name)) for name in ("AP", "teacher/AP"))
    assert student["color"] == teacher["color"]
    assert teacher["markerfacecolor"] == "white", "told apart where there is one evaluation, and so no line"


def test_draws_a_run(tmp_path: Path):
    records = [{**TRAIN, "epoch": e / 10, "loss": 3 / (e + 1)} for e in range(300)]
    records += [{**EVAL, "epoch": float(e)} for e in range(30)]
    out = tmp_path / "curves.png"
    draw_curves(write(tmp_path / "metrics.jsonl", records), out)
    with Image.open(out) as picture:
        assert picture.width > 1000
        assert picture.height > 800
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".jsonl"] == ["curves.png"], "no temporary file is left"


@pytest.mark.parametrize(
    "records",
    [
        [],
        [EVAL],
        [TRAIN],
        [{**TRAIN, "loss": None, "diag/recall_50": None}, {**TRAIN, "loss": 0.0}],
        [{**EVAL, "AP": -1, "AP50": None}],
    ],
    ids=["nothing", "only eval", "one step", "undefined numbers", "undefined AP"],
)
@pytest.mark.filterwarnings("error")
def test_any_beginning_of_a_run(tmp_path: Path, records: list[dict[str, Any]]):
    """Also with a line that a crash cut off, and without a warning."""
    draw_curves(write(tmp_path / "m.jsonl", records, '{"kind": "train", "lo'), tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_curves_hold_the_records_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    seen: dict[str, tuple[list[float], list[float]]] = {}
    original = curves._draw

    def spy(axes: Any, panel: Any, records: Any) -> None:
        original(axes, panel, records)
        for line in axes.get_lines():
            seen[line.get_label()] = (list(line.get_xdata()), list(line.get_ydata()))

    monkeypatch.setattr(curves, "_draw", spy)
    records = [TRAIN, {**TRAIN, "epoch": 0.9, "loss": 2.0, "diag/recall_50": None}, EVAL, {**EVAL, "AP": -1}]
    draw_curves(write(tmp_path / "m.jsonl", records), tmp_path / "c.png")
    assert seen["loss"] == ([0.5, 0.9], [3.0, 2.0])
    assert seen["recall_50"] == ([0.5], [0.7])
    assert seen["backbone"] == ([0.5, 0.9], [2.0, 2.0])
    assert seen["teacher/AP"] == ([1.0, 1.0], [30, 30])
    np.testing.assert_array_equal(seen["AP"][1], [20, np.nan])


def test_running_mean_equals_the_literal_one():
    y = np.random.default_rng(0).normal(size=50)
    y[[3, 4, 5, 6, 7, 8, 30]] = np.nan
    literal = [
        np.nanmean(y[max(0, i - 2) : i + 3]) if np.isfinite(y[max(0, i - 2) : i + 3]).any() else np.nan
        for i in range(50)
    ]
    np.testing.assert_allclose(_running_mean(y, 5), literal)


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path):
    with pytest.raises(UserError, match="missing"):
        draw_curves(write(tmp_path / "m.jsonl", [TRAIN]), tmp_path / "missing" / "c.png")
