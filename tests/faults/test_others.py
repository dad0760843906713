"""Short versions of the other parts: evaluation, soak, two hosts, and the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import soak as soak_module
from tests.faults.evaluation import difference, evaluations
from tests.faults.hosts import why_not
from tests.faults.table import BEGIN, END, Line, table, write


def test_evaluations_equal_pycocotools() -> None:
    (line,) = evaluations(share=1, seed=0, examples=25)
    assert line.failures == []
    assert line.tried == line.right == 25


def test_another_number_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    box = [0, 0, 10, 10]
    truth = {
        "images": [{"id": 1}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 100, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "a"}],
    }
    detections = [{"image_id": 1, "category_id": 1, "bbox": box, "score": 0.5}]
    assert difference(truth, detections) is None
    monkeypatch.setattr("mimicdet.inference.coco_metrics._mean", lambda values: 0.5)
    assert "by pycocotools" in (difference(truth, detections) or "")


def test_growth_is_found() -> None:
    flat = [(100 << 20, 5, 9)] * 40
    assert soak_module.growth(flat) == (0, 0, 0)
    rising = [((100 + n) << 20, 5 + n // 20, 9 + (n > 35)) for n in range(40)]
    memory, threads, files = soak_module.growth(rising)
    assert memory >> 20 == 20
    assert (threads, files) == (1, 1)


def test_two_hosts_say_why_they_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert why_not() == "not tried: needs root"


def test_the_table_stands_in_its_page(tmp_path: Path) -> None:
    good, bad = Line("kills", injected=3, survived=3), Line("mutants", tried=5, refused=2, right=2)
    bad.failures.append("traceback of KeyError in read of a.py: 'id'")
    bad.seconds = 2.4
    assert good.ok
    assert not bad.ok
    assert bad.complaints() == ["mutants: 1 x traceback of KeyError in read of a.py", "    " + bad.failures[0]]
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\n\nafter\n")
    write(page, table([good, bad]))
    text = page.read_text()
    assert "| kills | 3 | 3 | 0 |" in text
    assert "| 5 | 2 | 2 | 1 | 2 |" in text
    assert "old" not in text
    assert text.startswith("before")
    assert text.endswith("after\n")
    page.write_text("nothing")
    with pytest.raises(SystemExit, match="no place"):
        write(page, "")
