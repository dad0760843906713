"""A study's rows and differences against what COCO says of the same detections."""

from __future__ import annotations

import csv
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mimicdet.errors import UserError
from mimicdet.inference.coco_metrics import coco_metrics
from mimicdet.lab.study.comparison import Line, RunDifference, differences_of, lines_of, paired_interval, resampled_ap
from mimicdet.lab.study.evidence import Outcome
from mimicdet.lab.study.judged import judge
from mimicdet.lab.study.plan import plan
from mimicdet.lab.study.report import ranges, write_report
from mimicdet.lab.study.study_file import StudyFile
from tests.lab.study.test_judged import draw
from tests.lab.study.test_reuse import outcome_of

SEEDS = (0, 1, 2)


def study() -> StudyFile:
    runs = [{"name": "before"}, {"name": "after"}, {"name": "half done"}, {"name": "not begun"}]
    return StudyFile.model_validate(
        {"title": "Drawn", "baseline": "before", "runs": tuple(runs), "preset": "small"}, strict=False
    )


def noisy(run: str, seed: int) -> list[dict[str, Any]]:
    """Detections near the objects of ``truth``; AP differs from seed to seed."""
    noise = {"before": 8.0, "after": 4.0, "half done": 20.0}[run]
    return draw(5, images=8, noise=noise + 2 * seed)[1]


@pytest.fixture(scope="module")
def truth() -> dict[str, Any]:
    """A validation split's, as COCO writes it."""
    return draw(5, images=8)[0]


@pytest.fixture(scope="module")
def outcomes(truth: dict[str, Any]) -> list[Outcome]:
    jobs = {(job.run, job.seed): job for job in plan(study(), Path("study.yaml"), Path("out"))}
    outcomes = []
    for run, seeds in (("before", SEEDS), ("after", SEEDS), ("half done", (2,))):
        for seed in seeds:
            found = noisy(run, seed)
            outcome = outcome_of(
                jobs[run, seed], metrics=coco_metrics(truth, found).to_json(), judged=judge(truth, found)
            )
            machine = "a slow machine" if seed == 2 else "a fast machine"
            taught = 0.8 if run == "after" else None
            outcomes.append(outcome.model_copy(update={"machine": machine, "teacher_ap": taught}))
    return outcomes


@pytest.fixture(scope="module")
def differences(outcomes: list[Outcome]) -> dict[tuple[str, str], RunDifference]:
    return differences_of(outcomes, samples=20)


@pytest.fixture(scope="module")
def lines(outcomes: list[Outcome], differences: dict[tuple[str, str], RunDifference]) -> list[Line]:
    return lines_of(study(), outcomes, differences)


@pytest.fixture
def write(
    differences: dict[tuple[str, str], RunDifference], tmp_path: Path
) -> Callable[[list[Line]], list[dict[str, str]]]:
    def written(lines: list[Line]) -> list[dict[str, str]]:
        """The table's rows, by its header."""
        write_report(study(), lines, differences, "val of drawn: 8 images. `mimicdet study FILE`", tmp_path)
        text = (tmp_path / "table.md").read_text().splitlines()
        header, _, *rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text if row[:2] == "| "]
        return [dict(zip(header, row, strict=True)) for row in rows]

    return written


Write = Callable[[list[Line]], list[dict[str, str]]]


def test_differences_of_each_seed(lines: list[Line], truth: dict[str, Any]) -> None:
    assert [line.name for line in lines] == ["before", "after", "half done"]
    assert lines[0].difference is None
    for line, seeds in zip(lines[1:], (SEEDS, (2,)), strict=True):
        pairs = itertools.product((line.name, "before"), seeds)
        ap = {(run, seed): 100 * coco_metrics(truth, noisy(run, seed))["AP"] for run, seed in pairs}
        expected = [ap[line.name, seed] - ap["before", seed] for seed in seeds]
        assert line.difference is not None
        assert line.difference.seeds == seeds
        assert line.difference.by_seed == pytest.approx(expected, abs=1e-6)
        assert line.difference.mean == pytest.approx(sum(expected) / len(expected), abs=1e-6)


def test_each_two_runs_are_compared(
    outcomes: list[Outcome],
    differences: dict[tuple[str, str], RunDifference],
    write: Write,
    lines: list[Line],
    tmp_path: Path,
) -> None:
    """There and back; over shared seeds alone; and kept in a file."""
    assert set(differences) == set(itertools.permutations(("before", "after", "half done"), 2))
    there, back = differences["half done", "after"], differences["after", "half done"]
    assert there.seeds == back.seeds == (2,)
    assert there.by_seed == tuple(-value for value in back.by_seed)
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    last = {o.run: resampled_ap(o.judged, samples=20) for o in outcomes if o.seed == 2}
    expected = paired_interval([last["half done"]], [last["after"]])
    assert there.interval == pytest.approx((100 * expected[0], 100 * expected[1]))
    write(lines)
    with (tmp_path / "differences.csv").open() as file:
        kept = {(row["run"], row["against"]): row for row in csv.DictReader(file)}
    assert set(kept) == set(differences)
    row = kept["half done", "after"]
    assert row["seeds"] == "2"
    shown = [float(row[name]) for name in ("by_seed", "difference", "low", "high")]
    assert shown == pytest.approx([there.mean, there.mean, *there.interval], rel=1e-3)


def test_the_table_shows_them(lines: list[Line], write: Write, tmp_path: Path) -> None:
    cells = {row["run"]: row["by seed"] for row in write(lines)}
    assert cells["before"] == "-"
    difference = lines[1].difference
    assert difference is not None
    assert [float(value) for value in cells["after"].split()] == pytest.approx(difference.by_seed, abs=0.051)
    assert len(cells["half done"].split()) == 1
    with (tmp_path / "table.csv").open() as file:
        kept = {row["name"]: row for row in csv.DictReader(file)}
    assert [float(value) for value in kept["after"]["by_seed"].split()] == pytest.approx(difference.by_seed, rel=1e-3)
    assert kept["before"]["by_seed"] == kept["before"]["low"] == ""


def test_a_picture_that_cannot_be_written_costs_nothing_else(lines: list[Line], write: Write, tmp_path: Path) -> None:
    (tmp_path / "table.png").mkdir()
    with pytest.raises(UserError, match=r"table\.png cannot be written .* has the tables$"):
        write(lines)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        *("differences.csv", "table.csv", "table.md")
    ]


def test_the_share_of_the_t_heads_ap(lines: list[Line], write: Write) -> None:
    shown = {row["run"]: row["T-head AP (kept)"] for row in write(lines)}
    kept = 100 * statistics.mean(lines[1].ap) / 80
    assert shown == {"before": "-", "after": f"80.0 ± 0.0 ({kept:.0f} %)", "half done": "-"}


def test_every_machine_is_named_once(lines: list[Line], write: Write, tmp_path: Path) -> None:
    write(lines)
    assert "on a fast machine; a slow machine; " in (tmp_path / "table.md").read_text()
    write(lines[2:])
    assert "on a slow machine; " in (tmp_path / "table.md").read_text()


def test_one_seed_needs_no_column(lines: list[Line], write: Write) -> None:
    assert "by seed" not in write([lines[2]])[0]


def test_which_seeds_a_row_has(lines: list[Line], write: Write) -> None:
    for seeds, shown in (((0, 1, 2), "0-2"), ((2,), "2"), ((5, 0, 1), "0-1, 5"), ((0, 2), "0, 2")):
        assert ranges(seeds) == shown
    assert [row["seeds"] for row in write(lines)] == ["0-2", "0-2", "2"]
