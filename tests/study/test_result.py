"""A study's rows against what COCO says of the same detections."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from mimicdet.engine.coco_metrics import coco_metrics
from mimicdet.study.judged import judge
from mimicdet.study.outcome import Outcome
from mimicdet.study.plan import Study, plan
from mimicdet.study.result import Line, lines_of, write_results
from tests.study.test_judged import draw

SEEDS = (0, 1, 2)


class Drawn:
    """Stands for a validation split."""

    split, root = "val", Path("somewhere/drawn")

    def __init__(self) -> None:
        self.truth = draw(5, images=8)[0]

    def __len__(self) -> int:
        return 8

    def to_coco(self) -> dict[str, Any]:
        return self.truth


def study() -> Study:
    runs = [{"name": "before"}, {"name": "after"}, {"name": "half done"}, {"name": "not begun"}]
    return Study.model_validate(
        {"title": "Drawn", "baseline": "before", "runs": tuple(runs), "preset": "small"}, strict=False
    )


def noisy(run: str, seed: int) -> list[dict[str, Any]]:
    """Detections near the objects of ``Drawn``; AP differs from seed to seed."""
    noise = {"before": 8.0, "after": 4.0, "half done": 20.0}[run]
    return draw(5, images=8, noise=noise + 2 * seed)[1]


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    return Drawn()


@pytest.fixture(scope="module")
def lines(drawn: Drawn) -> list[Line]:
    given = study()
    jobs = {(job.run, job.seed): job for job in plan(given, Path("study.yaml"), Path("out"))}
    outcomes = []
    for run, seeds in (("before", SEEDS), ("after", SEEDS), ("half done", (2,))):
        for seed in seeds:
            found = noisy(run, seed)
            metrics = coco_metrics(drawn.truth, found).to_json()
            machine = "a slow machine" if seed == 2 else "a fast machine"
            outcomes.append(Outcome(jobs[run, seed], metrics, judge(drawn.truth, found), 60.0, None, machine))
    return lines_of(given, outcomes, samples=20)


def test_differences_of_each_seed(lines: list[Line], drawn: Drawn) -> None:
    assert [line.name for line in lines] == ["before", "after", "half done"]
    assert lines[0].difference is lines[0].interval is None
    assert lines[0].by_seed == ()
    for line, seeds in zip(lines[1:], (SEEDS, (2,)), strict=True):
        ap = {
            (run, seed): 100 * coco_metrics(drawn.truth, noisy(run, seed))["AP"]
            for run in (line.name, "before") for seed in seeds
        }  # fmt: skip
        expected = [ap[line.name, seed] - ap["before", seed] for seed in seeds]
        assert line.by_seed == pytest.approx(expected, abs=1e-6)
        assert line.difference == pytest.approx(sum(expected) / len(expected), abs=1e-6)


def test_the_table_shows_them(lines: list[Line], drawn: Drawn, tmp_path: Path) -> None:
    write_results(study(), lines, drawn, "mimicdet study FILE", tmp_path)  # type: ignore[arg-type]
    rows = [row.split("|") for row in (tmp_path / "table.md").read_text().splitlines() if row.startswith("| ")]
    column = [cell.strip() for cell in rows[0]].index("by seed")
    cells = {row[1].strip(): row[column].strip() for row in rows}
    assert cells["before"] == "-"
    assert [float(value) for value in cells["after"].split()] == pytest.approx(lines[1].by_seed, abs=0.051)
    assert len(cells["half done"].split()) == 1
    with (tmp_path / "table.csv").open() as file:
        kept = {row["name"]: row["by_seed"] for row in csv.DictReader(file)}
    assert [float(value) for value in kept["after"].split()] == pytest.approx(lines[1].by_seed, rel=1e-3)
    assert kept["before"] == ""


def test_every_machine_is_named_once(lines: list[Line], drawn: Drawn, tmp_path: Path) -> None:
    write_results(study(), lines, drawn, "mimicdet study FILE", tmp_path)  # type: ignore[arg-type]
    assert "on a fast machine; a slow machine; " in (tmp_path / "table.md").read_text()
    write_results(study(), lines[2:], drawn, "mimicdet study FILE", tmp_path)  # type: ignore[arg-type]
    assert "on a slow machine; " in (tmp_path / "table.md").read_text()


def test_one_seed_needs_no_column(lines: list[Line], drawn: Drawn, tmp_path: Path) -> None:
    write_results(study(), [lines[2]], drawn, "mimicdet study FILE", tmp_path)  # type: ignore[arg-type]
    assert "by seed" not in (tmp_path / "table.md").read_text()
