"""The pages' tables are what the studies found, not figures typed by hand; all of it is made of their evidence."""

from __future__ import annotations

import importlib.util
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from mimicdet.cli import main
from mimicdet.lab.study.evidence import EVIDENCE, read_evidence
from mimicdet.lab.study.plan import plan
from mimicdet.lab.study.study_file import read_study

DOCS = Path(__file__).parent.parent / "docs"
TABLES = sorted(file.parent for file in (DOCS / "results").glob("*/table.md"))
KEPT = [folder for folder in TABLES if (folder / EVIDENCE).is_file()]
RESAMPLED = {"table4_aquarium_cpu"}
"""Intervals take a second for each run and seed, so the other studies' are made again by the slow test alone."""


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_results", DOCS / "make_results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]


def test_the_pages_are_what_the_studies_say() -> None:
    done = subprocess.run([sys.executable, DOCS / "make_results.py", "--check"])
    assert done.returncode == 0, "run: python docs/make_results.py"


def test_a_page_that_says_otherwise_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Results\n\n<!-- made: table4_aquarium_cpu -->\nAP 99\n<!-- end -->\n\nas typed\n")
    monkeypatch.setattr(script, "HERE", tmp_path)
    assert script.main(["--check"]) == 1
    assert script.main([]) == script.main(["--check"]) == 0
    assert rows(page.read_text()) == rows((DOCS / "results/table4_aquarium_cpu/table.md").read_text())
    assert page.read_text().endswith("<!-- end -->\n\nas typed\n")
    page.write_text("<!-- made: table4_aquarium -->\n<!-- end -->\n")
    with pytest.raises(SystemExit, match=r"results.md: there is no 'table4_aquarium' to make; there are rivals, "):
        script.main([])


def test_the_answers_in_short_are_printed_as_in_the_tables() -> None:
    """ "RUN: AP" in an answer is the row "| RUN | AP |" of a table; a T-head's AP its last cell."""
    printed = {tuple(row[:2]) for folder in TABLES for row in rows((folder / "table.md").read_text())}
    everything = "".join((folder / "table.md").read_text() for folder in TABLES)
    page = (DOCS / "findings.md").read_text()
    _, *answers = rows(page.split("<!-- made: in short -->")[1].split("<!-- end -->")[0])
    assert len(answers) > 20
    for cell in (cell for answer in answers for cell in answer[1:3]):
        if cell.startswith("its T-head: "):
            assert f" {cell.removeprefix('its T-head: ')} (" in everything, cell
        elif " (seed" in cell:
            run, ap, seeds = re.fullmatch(r"(.*): (.*) \(seeds? (.*)\)", cell).groups()  # type: ignore[union-attr]
            assert any(float(ap) == pytest.approx(mean, abs=0.051) for mean in means(run, seeds.split(", "))), cell
        else:
            assert tuple(cell.rsplit(": ", 1)) in printed, cell


def means(run: str, seeds: list[str]) -> Iterator[float]:
    """AP of a run over some of its seeds, in each study that has it with more."""
    for folder in KEPT:
        ap = {str(one.seed): 100 * one.metrics["AP"] for one in read_evidence(folder) if one.run == run}
        if set(seeds) < set(ap):
            yield statistics.mean(ap[seed] for seed in seeds)


def test_the_results_are_few_files() -> None:
    files = [file for file in (DOCS / "results").rglob("*") if file.is_file()]
    assert len(files) <= 60
    assert sum(file.stat().st_size for file in files) < 5e6


@pytest.mark.parametrize("folder", TABLES, ids=lambda folder: folder.name)
def test_every_table_has_its_study_and_its_picture(folder: Path) -> None:
    file, size = script.studies()[folder.name]
    assert (folder / "table.png").read_bytes().startswith(b"\x89PNG")
    assert f"The study is studies/{file.name}, size {size}; trained on" in (folder / "table.md").read_text()


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_the_figures_are_those_of_the_detections(folder: Path) -> None:
    """Each seed's AP, from what became of each of its detections; and every run is one of the study's."""
    outcomes = read_evidence(folder)
    file, size = script.studies()[folder.name]
    planned = {(job.run, job.seed) for job in plan(read_study(file, size), file, folder)}
    assert {(one.run, one.seed) for one in outcomes} <= planned
    for one in outcomes:
        assert one.judged.ap() == pytest.approx(one.metrics["AP"], abs=1e-9)


def made_again(folder: Path, out: Path, *, samples: int) -> tuple[str, str]:
    """A study's table.md and differences.csv, made of its evidence alone."""
    shutil.copy(folder / EVIDENCE, out)
    file, size = script.studies()[folder.name]
    words = ["study", str(file), "--size", size, "--out", str(out), "--samples", str(samples), "--table"]
    assert main(words) == 0
    table = (out / "table.md").read_text().replace(str(file), f"studies/{file.name}")
    return table, (out / "differences.csv").read_text()


@pytest.mark.parametrize(
    "folder",
    [pytest.param(one, marks=[] if one.name in RESAMPLED else pytest.mark.slow, id=one.name) for one in KEPT],
)
def test_the_table_is_made_of_its_evidence_to_the_letter(folder: Path, tmp_path: Path) -> None:
    table, differences = made_again(folder, tmp_path, samples=1000)
    assert table == (folder / "table.md").read_text()
    with np.load(folder / EVIDENCE, allow_pickle=False) as stored:
        assert differences.encode() == stored["differences.csv"]


@pytest.mark.parametrize("folder", [one for one in KEPT if one.name not in RESAMPLED], ids=lambda folder: folder.name)
def test_the_table_is_made_of_its_evidence_but_for_the_intervals(folder: Path, tmp_path: Path) -> None:
    table, _ = made_again(folder, tmp_path, samples=1)

    def without_intervals(text: str) -> str:
        return re.sub(r"[+-][0-9.]+ \[[+-][0-9.]+, [+-][0-9.]+\]", lambda found: found[0].split()[0], text).replace(
            " ", ""
        )

    bare, kept = without_intervals(table), without_intervals((folder / "table.md").read_text())
    assert [line.strip("-|:") for line in bare.splitlines()] == [line.strip("-|:") for line in kept.splitlines()]
