"""Fills the tables of docs/results.md, findings.md and distillation.md from finished studies.

    python docs/make_results.py runs/table1_aquarium_cpu runs/distill_gfl_aquarium_cpu

copies what `mimicdet study` wrote into those folders to docs/results, and fills the tables anew; without folders, it
fills the tables alone. `--check` says whether they are up to date. A table stands between `<!-- made: NAME -->` and
`<!-- end -->`; docs/results/page.yaml says what it holds.

Of each run two small files are kept, its figures and what became of each of its detections, and the times of its model
where the study has them. These are enough for
`mimicdet study studies/NAME.yaml --out docs/results/NAME --table`, which makes the table with its intervals again.
"""

from __future__ import annotations

import csv
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STUDIES = HERE.parent / "studies"
PAGES = [HERE / name for name in ("results.md", "findings.md", "distillation.md")]
_TABLE = re.compile(r"<!-- made: ([\w ]+) -->.*?<!-- end -->", re.DOTALL)
TABLES = ("table.md", "table.csv", "table.png", "differences.csv")
EVIDENCE = ("result.json", "judged.npz")
MORE = ("diagnostics.csv", "speed.png", "*/seed*/speed.json")
"""Where a study has them."""


def filled(text: str) -> str:
    """Returns a page with its tables made anew."""
    layout = yaml.safe_load((RESULTS / "page.yaml").read_text(encoding="utf-8"))
    there = {file.parent.name for file in RESULTS.glob("*/table.md")}
    makers = {
        "rivals": lambda: _rows(layout["rivals"]),
        "goals": lambda: _goals(layout["goals"], there),
        "distillation": lambda: _students(layout["distillation"]),
        "in short": lambda: _questions(layout["questions"], there),
    }
    return _TABLE.sub(lambda found: f"<!-- made: {found[1]} -->\n\n{makers[found[1]]()}\n\n<!-- end -->", text)


def _rows(layout: dict[str, Any]) -> str:
    """Returns some columns of a study's table."""
    columns = [_printed(layout["study"], name) for name in layout["columns"]]
    lines = [f"| run | {' | '.join(layout['columns'])} |", f"|:--{'|--:' * len(columns)}|"]
    runs = [run for run in columns[0] if not run.startswith(":--")]
    return "\n".join([*lines, *(f"| {run} | {' | '.join(column[run] for column in columns)} |" for run in runs)])


def _students(layout: dict[str, Any]) -> str:
    """Returns a row for each family: its teacher, the student alone, and what distillation gives."""
    head = ["student", "teacher", "alone", *layout["runs"]]
    lines = [f"| {' | '.join(head)} |", f"|:--{'|--:' * (len(head) - 1)}|"]
    for family, study in layout["students"].items():
        ap = _printed(study, "AP")
        teacher = next(value for run, value in ap.items() if run.startswith("teacher"))
        cells = [family, teacher, ap[layout["alone"]]]
        for run in layout["runs"]:
            compared = _compared(study, run, layout["alone"])
            assert compared is not None, f"{study} has no run '{run}'"
            cells.append(f"{compared[2]}: {', '.join(compared[3].split())}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _goals(goals: dict[str, Any], there: set[str]) -> str:
    """Of each way to build the S-head, how near it comes to each goal."""
    studies = (goals["mimicking"], goals["rivals"])
    if not there.issuperset(studies):
        return ""
    lines = [
        f"| {' | '.join(['S-head', 'AP', *goals['sought']])} |",
        f"|:--{'|--:' * (1 + len(goals['sought']))}|",
    ]
    for row in goals["rows"]:
        given = _compared(goals["mimicking"], row["run"], row["without"])
        t_head = _t_head(goals["mimicking"], row["run"])
        beside = _compared(goals["rivals"], row["beside"], goals["rival"])
        if given and t_head and beside:  # trained
            ap = _printed(goals["mimicking"], "AP")[row["run"]]
            cells = [row["name"], ap, _with_seeds(given), t_head[1], _with_seeds(beside)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _with_seeds(compared: list[str]) -> str:
    """A difference, and how many seeds it is of where they are few."""
    seeds = len(compared[3].split())
    return compared[2] + ("" if seeds > 2 else f", {seeds} seed{'s' * (seeds > 1)}")


def _questions(questions: list[dict[str, str]], there: set[str]) -> str:
    """One line per question whose runs are trained."""
    lines = ["| question | AP | against | difference [95 %] | by seed | sought | table |", f"|{':--|' * 7}"]
    for question in questions:
        name, run, against = question["study"], question["run"], question.get("against")
        if name not in there:
            continue
        planned = {one["name"] for one in yaml.safe_load((STUDIES / f"{name}.yaml").read_text("utf-8"))["runs"]}
        if not {run, against or run} <= planned:
            raise SystemExit(f"{RESULTS / 'page.yaml'}: '{question['ask']}' names a run that {name} does not have")
        answer = _compared(name, run, against) if against else _kept(name, run)
        if answer is not None:  # trained
            cells = [question["ask"], *answer, question.get("sought", ""), f"[table](results/{name}/table.md)"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _compared(name: str, run: str, against: str) -> list[str] | None:
    """The AP of both, how far they lie apart in the seeds of both, and in each."""
    if (found := _differences(name).get((run, against))) is None:
        return None
    ap, lines, shared = _printed(name, "AP"), _csv(name), found["seeds"].split()
    for one in (run, against):
        by_own_seed = dict(zip(lines[one]["seeds"].split(), map(float, lines[one]["ap"].split()), strict=True))
        if len(by_own_seed) > len(shared):
            mean = statistics.mean(by_own_seed[seed] for seed in shared)
            ap[one] = f"{mean:.1f} (seed{'s' * (len(shared) > 1)} {', '.join(shared)})"
    difference, low, high = (f"{float(found[key]):+.1f}" for key in ("difference", "low", "high"))
    by_seed = " ".join(f"{float(value):+.1f}" for value in found["by_seed"].split())
    return [f"{run}: {ap[run]}", f"{against}: {ap[against]}", f"{difference} [{low}, {high}]", by_seed]


def _kept(name: str, run: str) -> list[str] | None:
    """The S-head's AP, its T-head's, what share of it that is, and in each seed."""
    found = _t_head(name, run)
    if found is None:
        return None
    printed, share = found
    lines = _csv(name)
    ap, of_teacher = ([float(value) for value in lines[run][key].split()] for key in ("ap", "teacher_ap"))
    by_seed = " ".join(f"{100 * own / other:.0f} %" for own, other in zip(ap, of_teacher, strict=True))
    return [f"{run}: {_printed(name, 'AP')[run]}", f"its T-head: {printed}", f"{share} of it", by_seed]


def _t_head(name: str, run: str) -> tuple[str, str] | None:
    """The T-head's AP, and what share of it the S-head has."""
    if (cell := _printed(name, "T-head AP (kept)").get(run)) is None:
        return None
    ap, share = cell.removesuffix(")").split(" (")
    return ap, share


def _csv(name: str) -> dict[str, dict[str, str]]:
    """Run -> the line of table.csv."""
    with (RESULTS / name / "table.csv").open(encoding="utf-8") as opened:
        return {line["name"]: line for line in csv.DictReader(opened)}


def _differences(name: str) -> dict[tuple[str, str], dict[str, str]]:
    """(Run, the one it is compared with) -> the line of differences.csv."""
    with (RESULTS / name / "differences.csv").open(encoding="utf-8") as opened:
        return {(line["run"], line["against"]): line for line in csv.DictReader(opened)}


def _printed(name: str, column: str) -> dict[str, str]:
    """Run -> its cell as the table prints it: rounded anew from the CSV's four digits it could differ in the last."""
    table = (RESULTS / name / "table.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines() if line.startswith("| ")]
    place = rows[0].index(column)
    return {row[0]: row[place] for row in rows[1:]}


def keep(folder: Path) -> None:
    """Copies a study's tables, its picture and the evidence for them."""
    if not (STUDIES / f"{folder.name}.yaml").is_file():
        raise SystemExit(f"{folder}: there is no studies/{folder.name}.yaml; name the folder as its study")
    evidence = [file.with_name(name) for file in folder.glob(f"*/seed*/{EVIDENCE[0]}") for name in EVIDENCE]
    more = [file for pattern in MORE for file in folder.glob(pattern)]
    for source in [*(folder / name for name in TABLES), *evidence, *more]:
        target = RESULTS / folder.name / source.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())


def main(arguments: list[str]) -> int:
    if arguments == ["--check"]:
        return int(any(filled(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8") for page in PAGES))
    for folder in arguments:
        keep(Path(folder))
    for page in PAGES:
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
