"""Fills the tables of docs' pages with what studies have found.

    python docs/make_results.py runs/table1_aquarium_cpu runs/distill_gfl_aquarium_cpu

keeps the tables, pictures and evidence of these studies in docs/results, and fills the pages anew; without folders, it
fills the pages alone. `--check` says whether they are up to date.

A table stands between `<!-- made: NAME -->` and `<!-- end -->`. NAME is a folder in docs/results, whose table it then
is, or one of `PARTS`; docs/results/page.yaml says what those hold.
"""

from __future__ import annotations

import csv
import functools
import io
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mimicdet.lab.study.evidence import EVIDENCE, Outcome, read_evidence
from mimicdet.lab.study.study_file import read_study, sizes_of

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STUDIES = HERE.parent / "studies"
KEPT = ("table.md", "table.png", EVIDENCE)
MORE = ("speed.png",)
"""Where a study has it."""


def pages() -> dict[Path, str]:
    """Returns every page that holds something made, as it should be."""
    texts = {file: file.read_text(encoding="utf-8") for file in sorted(HERE.glob("*.md"))}
    return {file: _filled(text, file) for file, text in texts.items() if "<!-- made: " in text}


@functools.cache
def studies() -> dict[str, tuple[Path, str]]:
    """Returns the file and size of every study, by the name that its results have."""
    files = sorted(STUDIES.glob("*.yaml"))
    return {f"{file.stem}_{size}": (file, size) for file in files for size in sizes_of(file)}


def keep(folder: Path) -> None:
    """Copies a study's table, its pictures and the evidence for them."""
    if folder.name not in studies():
        raise SystemExit(f"{folder}: no study has results of this name, STUDY_SIZE; there are {', '.join(studies())}")
    (RESULTS / folder.name).mkdir(exist_ok=True)
    for name in (*KEPT, *(name for name in MORE if (folder / name).is_file())):
        (RESULTS / folder.name / name).write_bytes((folder / name).read_bytes())


def _filled(text: str, file: Path) -> str:
    def made(match: re.Match[str]) -> str:
        name = match[1]
        if name not in PARTS and name not in _there():
            raise SystemExit(
                f"{file}: there is no '{name}' to make; there are {', '.join([*PARTS, *sorted(_there())])}"
            )
        part = PARTS[name](_layout()[name]) if name in PARTS else _rows(name)
        return f"<!-- made: {name} -->\n\n{part}\n\n<!-- end -->"

    return re.sub(r"<!-- made: ([^\n]*) -->\n.*?<!-- end -->", made, text, flags=re.DOTALL)


@functools.cache
def _layout() -> dict[str, Any]:
    layout: dict[str, Any] = yaml.safe_load((RESULTS / "page.yaml").read_text(encoding="utf-8"))
    return layout


def _there() -> set[str]:
    """Returns the names of the studies that have results."""
    return {file.parent.name for file in RESULTS.glob("*/table.md")}


# ----------------------------------------------------------------------------------------------------- parts


def _rivals(layout: dict[str, Any]) -> str:
    """Returns some columns of a study's table."""
    columns = [_printed(layout["study"], name) for name in layout["columns"]]
    rows = [[run, *(column[run] for column in columns)] for run in columns[0]]
    return _table(["run", *layout["columns"]], rows)


def _distillation(layout: dict[str, Any]) -> str:
    """Returns a row for each family: its teacher, the student alone, and what distillation gives."""
    rows = []
    for family, study in layout["students"].items():
        ap = _printed(study, "AP")
        teacher = next(value for run, value in ap.items() if run.startswith("teacher"))
        cells = [family, teacher, ap[layout["alone"]]]
        for run in layout["runs"]:
            compared = _compared(study, run, layout["alone"])
            assert compared is not None, f"{study} has no run '{run}'"
            cells.append(f"{compared[2]}: {', '.join(compared[3].split())}")
        rows.append(cells)
    return _table(["student", "teacher", "alone", *layout["runs"]], rows)


def _goals(layout: dict[str, Any]) -> str:
    """Says of each way to build the S-head how near it comes to each goal."""
    rows = []
    for row in layout["rows"]:
        given = _compared(layout["mimicking"], row["run"], row["without"])
        t_head = _t_head(layout["mimicking"], row["run"])
        beside = _compared(layout["rivals"], row["beside"], layout["rival"])
        if given and t_head and beside:  # trained
            ap = _printed(layout["mimicking"], "AP")[row["run"]]
            rows.append([row["name"], ap, _with_seeds(given), t_head[1], _with_seeds(beside)])
    return _table(["S-head", "AP", *layout["sought"]], rows)


def _in_short(layout: list[dict[str, str]]) -> str:
    """Answers each question whose runs are trained in a line."""
    rows = []
    for question in layout:
        name, run, against = question["study"], question["run"], question.get("against")
        if name not in _there():
            continue
        planned = {one.name for one in read_study(*studies()[name]).runs}
        if not {run, against or run} <= planned:
            raise SystemExit(f"{RESULTS / 'page.yaml'}: '{question['ask']}' names a run that {name} does not have")
        answer = _compared(name, run, against) if against else _kept(name, run)
        if answer is not None:  # trained
            table = f"[table](results/{name}/table.md)"
            rows.append([question["ask"], *answer, question.get("sought", ""), table])
    return _table(["question", "AP", "against", "difference [95 %]", "by seed", "sought", "table"], rows, of_text=True)


def _table(header: list[str], rows: list[list[str]], *, of_text: bool = False) -> str:
    rule = "|:--" + ("|:--" if of_text else "|--:") * (len(header) - 1) + "|"
    first, *others = (f"| {' | '.join(line)} |" for line in [header, *rows])
    return "\n".join([first, rule, *others])


def _rows(name: str) -> str:
    """Returns a study's table alone."""
    return "\n".join(line for line in _text(name).splitlines() if line.startswith("|"))


PARTS: dict[str, Callable[[Any], str]] = {
    "rivals": _rivals,
    "distillation": _distillation,
    "goals": _goals,
    "in short": _in_short,
}
"""Makes a part, of what page.yaml has for it."""


# --------------------------------------------------------------------------------------------------- figures


def _compared(name: str, run: str, against: str) -> list[str] | None:
    """Returns the AP of both, how far they lie apart in the seeds of both, and in each."""
    if (found := _differences(name).get((run, against))) is None:
        return None
    ap, shared = _printed(name, "AP"), found["seeds"].split()
    for one in (run, against):
        by_own_seed = {str(outcome.seed): 100 * outcome.metrics["AP"] for outcome in _outcomes(name, one)}
        if len(by_own_seed) > len(shared):
            mean = statistics.mean(by_own_seed[seed] for seed in shared)
            ap[one] = f"{mean:.1f} (seed{'s' * (len(shared) > 1)} {', '.join(shared)})"
    difference, low, high = (f"{float(found[key]):+.1f}" for key in ("difference", "low", "high"))
    by_seed = " ".join(f"{float(value):+.1f}" for value in found["by_seed"].split())
    return [f"{run}: {ap[run]}", f"{against}: {ap[against]}", f"{difference} [{low}, {high}]", by_seed]


def _with_seeds(compared: list[str]) -> str:
    """Returns a difference, and how many seeds it is of where they are few."""
    seeds = len(compared[3].split())
    return compared[2] + ("" if seeds > 2 else f", {seeds} seed{'s' * (seeds > 1)}")


def _kept(name: str, run: str) -> list[str] | None:
    """Returns the S-head's AP, its T-head's, what share of it that is, and in each seed."""
    found = _t_head(name, run)
    if found is None:
        return None
    printed, share = found
    own = [(outcome.metrics["AP"], outcome.teacher_ap) for outcome in _outcomes(name, run)]
    by_seed = " ".join(f"{100 * ap / of_teacher:.0f} %" for ap, of_teacher in own if of_teacher is not None)
    return [f"{run}: {_printed(name, 'AP')[run]}", f"its T-head: {printed}", f"{share} of it", by_seed]


def _t_head(name: str, run: str) -> tuple[str, str] | None:
    """Returns the T-head's AP, and what share of it the S-head has."""
    if (cell := _printed(name, "T-head AP (kept)").get(run)) is None:
        return None
    ap, share = cell.removesuffix(")").split(" (")
    return ap, share


def _outcomes(name: str, run: str) -> list[Outcome]:
    """Returns what each seed of a run gave."""
    return [outcome for outcome in _evidence(name) if outcome.run == run]


@functools.cache
def _evidence(name: str) -> list[Outcome]:
    return read_evidence(RESULTS / name)


@functools.cache
def _differences(name: str) -> dict[tuple[str, str], dict[str, str]]:
    """Returns the differences of each two runs, by both names, as the study wrote them into its evidence."""
    with np.load(RESULTS / name / EVIDENCE, allow_pickle=False) as stored:
        lines = csv.DictReader(io.StringIO(stored["differences.csv"].decode()))
        return {(line["run"], line["against"]): line for line in lines}


def _printed(name: str, column: str) -> dict[str, str]:
    """Returns each run's cell as the table prints it, by run."""
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in _rows(name).splitlines()]
    place = rows[0].index(column)
    return {row[0]: row[place] for row in rows[2:]}


def _text(name: str) -> str:
    return (RESULTS / name / "table.md").read_text(encoding="utf-8")


def main(arguments: list[str]) -> int:
    only_check = arguments == ["--check"]
    for folder in [] if only_check else arguments:
        keep(Path(folder))
    stale = {file: text for file, text in pages().items() if file.read_text(encoding="utf-8") != text}
    for file, text in ({} if only_check else stale).items():
        file.write_text(text, encoding="utf-8")
    return int(only_check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
