"""Tables."""

from __future__ import annotations

import pytest

from mimicdet.inference.coco_metrics import METRIC_NAMES, coco_metrics
from mimicdet.report.table import class_table, metrics_table, points, table


def test_text():
    assert table(["model", "AP"], [["a", "1.0"], ["longer", "23.4"]]) == (
        "model     AP\n------  ----\na        1.0\nlonger  23.4"
    )


def test_markdown_escapes_bars_and_aligns_numbers_right():
    assert table(["a|b", "AP"], [["x\ny", "1.0"]], style="markdown") == (
        "| a\\|b |  AP |\n| :--- | --: |\n| x y  | 1.0 |"
    )


def test_no_cell_steers_a_terminal_or_forges_a_row():
    text = table(["file", "n"], [["\x1b[2J\u202e\udcff", "1"], ["long" * 50, "2"]])
    assert all(line.isprintable() for line in text.split("\n"))
    assert text.split("\n")[2].startswith(r"\x1b[2J\u202e\udcff")
    assert len(text.split("\n")[3]) == 80 + 3


def test_wide_characters_take_two_columns():
    lines = table(["class", "n"], [["魚", "1"], ["fish", "2"]]).splitlines()
    assert lines[2] == "魚     1"
    assert lines[3] == "fish   2"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 cells, the header 1"):
        table(["a"], [["1", "2"]])


@pytest.mark.parametrize(("value", "text"), [(0.39, "39.0"), (0.0, "0.0"), (1.0, "100.0"), (-1.0, "-"), (None, "-")])
def test_points(value: float | None, text: str):
    assert points(value) == text


def test_tables_of_an_evaluation():
    box = [0, 0, 50, 50]
    truth = {
        "images": [{"id": 1}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": box}],
        "categories": [{"id": 1, "name": "fish"}, {"id": 2, "name": "shark"}],
    }
    result = coco_metrics(truth, [{"image_id": 1, "category_id": 1, "bbox": box, "score": 1}]).to_json()
    whole = metrics_table({"S-head": result, "T-head": {"AP": 0.5}})
    head, _, student, teacher = (line.split() for line in whole.splitlines())
    assert tuple(head) == METRIC_NAMES
    assert student == ["S-head", "100.0", "100.0", "100.0", "-", "100.0", "-"] + ["100.0"] * 3 + ["-", "100.0", "-"]
    assert teacher == ["T-head", "50.0"] + ["-"] * 11
    assert class_table(result).splitlines()[2:] == ["fish   100.0  100.0", "shark      -      -"]
