"""The tables of docs/ hold what the studies wrote, not figures typed by hand."""

from __future__ import annotations

import csv
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from mimicdet.lab.study.judged import Judged
from mimicdet.lab.study.plan import plan, read_study

DOCS = Path(__file__).parent.parent / "docs"
STUDIES = DOCS.parent / "studies"
TABLES = sorted(file.parent for file in (DOCS / "results").glob("*/table.md"))


def test_the_pages_are_what_the_studies_say() -> None:
    done = subprocess.run([sys.executable, DOCS / "make_results.py", "--check"])
    assert done.returncode == 0, "run: python docs/make_results.py"


def test_the_answers_are_printed_as_in_the_tables() -> None:
    """ "RUN: AP" in the table of questions is the row "| RUN | AP |" of the study's; a T-head's AP its last cell."""
    page = (DOCS / "findings.md").read_text()
    short = page.split("<!-- made: in short -->")[1].split("<!-- end -->")[0]
    rest = "\n".join((folder / "table.md").read_text() for folder in TABLES)
    rows = {tuple(cell.strip() for cell in line.split("|")[1:3]) for line in rest.splitlines() if line.startswith("| ")}
    answers = [line.split("|")[2:4] for line in short.splitlines() if line.startswith("| ")][1:]
    assert len(answers) > 20
    for cell in (cell.strip() for answer in answers for cell in answer):
        if cell.startswith("its T-head: "):
            assert f" {cell.removeprefix('its T-head: ')} (" in rest, cell
        elif " (seed" in cell:
            run, ap, seeds = re.fullmatch(r"(.*): (.*) \(seeds? (.*)\)", cell).groups()  # type: ignore[union-attr]
            assert any(float(ap) == pytest.approx(mean, abs=0.051) for mean in means(run, seeds.split(", "))), cell
        else:
            assert tuple(cell.rsplit(": ", 1)) in rows, cell


def means(run: str, seeds: list[str]) -> list[float]:
    """AP of a run over some of its seeds, in each study that has it with more."""
    found = []
    for folder in TABLES:
        with (folder / "table.csv").open() as file:
            for line in csv.DictReader(file):
                ap = dict(zip(line["seeds"].split(), map(float, line["ap"].split()), strict=True))
                if line["name"] == run and set(seeds) < set(ap):
                    found.append(statistics.mean(ap[seed] for seed in seeds))
    return found


@pytest.mark.parametrize("folder", TABLES, ids=lambda folder: folder.name)
def test_every_table_has_its_study_and_its_picture(folder: Path) -> None:
    assert (STUDIES / f"{folder.name}.yaml").is_file()
    assert (folder / "table.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "table.csv").is_file()


@pytest.mark.parametrize("folder", TABLES, ids=lambda folder: folder.name)
def test_the_figures_are_those_of_the_detections(folder: Path) -> None:
    """Each seed's AP, from what became of each of its detections."""
    kept = {file.parent.relative_to(folder): file for file in folder.glob("*/seed*/judged.npz")}
    if not kept:
        pytest.skip(f"{folder.name} was made before the evidence was kept beside the tables")
    with (folder / "table.csv").open() as file:
        lines = {line["name"]: line for line in csv.DictReader(file)}
    study = STUDIES / f"{folder.name}.yaml"
    jobs = [j for j in plan(read_study(study), study, folder) if j.folder.relative_to(folder) in kept]
    assert len(jobs) == len(kept) == sum(len(line["seeds"].split()) for line in lines.values())
    for job in jobs:
        ap = 100 * Judged.load(kept[job.folder.relative_to(folder)]).ap()
        line = lines[job.run]
        listed = dict(zip(line["seeds"].split(), line["ap"].split(), strict=True))[str(job.seed)]
        assert float(listed) == pytest.approx(ap, rel=1e-3)
        assert json.loads((job.folder / "result.json").read_text())["metrics"]["AP"] == pytest.approx(ap / 100)
