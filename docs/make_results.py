"""Writes docs/results.md from finished studies.

    python docs/make_results.py runs/table1_aquarium_cpu runs/distill_gfl_aquarium_cpu

copies what `mimicdet study` wrote into those folders to docs/results, and writes the page anew; without folders, the
page alone. `--check` says whether it is up to date.

Of each run two small files are kept, its figures and what became of each of its detections, and the times of its model
where the study has them. They are enough for
`mimicdet study studies/NAME.yaml --out docs/results/NAME --table`, which makes the table with its intervals again.
"""

from __future__ import annotations

import csv
import re
import statistics
import sys
from pathlib import Path

import yaml

from mimicdet.study.result import spread

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STUDIES = HERE.parent / "studies"
TABLES = ("table.md", "table.csv", "table.png")
EVIDENCE = ("result.json", "judged.npz")
SPEEDS = ("speed.png", "*/seed*/speed.json")
"""Where a study has them."""


def page() -> str:
    """The whole of results.md: the introduction, the answers in short, then every study with the notes beside it."""
    layout = yaml.safe_load((RESULTS / "page.yaml").read_text(encoding="utf-8"))
    named = [name for section in layout["sections"] for name in section["studies"]]
    there = {file.parent.name for file in RESULTS.glob("*/table.md")}
    if there - set(named):
        raise SystemExit(f"{RESULTS / 'page.yaml'} has no section for {', '.join(sorted(there - set(named)))}")
    parts = [(RESULTS / "introduction.md").read_text(encoding="utf-8"), _in_short(layout["questions"], there)]
    for section in layout["sections"]:
        parts.append(f"## {section['title']}\n")
        parts += [_study(name) for name in section["studies"] if name in there]
    return "\n".join(parts)


def _in_short(questions: list[dict[str, str]], there: set[str]) -> str:
    """One line per question whose study is there: the AP of both runs, and the difference in every seed both have."""
    lines = ["## In short", "", "| question | AP | against | difference, by seed | table |", "|:--|:--|:--|:--|:--|"]
    for question in questions:
        name = question["study"]
        if name not in there:
            continue
        with (RESULTS / name / "table.csv").open(encoding="utf-8") as file:
            runs = {line["name"]: line for line in csv.DictReader(file)}
        asked = {question["run"], question["against"]}
        planned = {run["name"] for run in yaml.safe_load((STUDIES / f"{name}.yaml").read_text("utf-8"))["runs"]}
        if not asked <= planned:
            raise SystemExit(f"{RESULTS / 'page.yaml'}: '{question['ask']}' names a run that {name} does not have")
        if not asked <= set(runs):
            continue  # not trained yet
        run, against = runs[question["run"]], runs[question["against"]]
        lines.append(
            f"| {question['ask']} | {run['name']}: {_mean(run)} | {against['name']}: {_mean(against)} "
            f"| {_differences(run, against)} | [table](#{_anchor(_title(name))}) |"
        )
    return "\n".join([*lines, ""])


def _by_seed(line: dict[str, str]) -> dict[str, float]:
    return dict(zip(line["seeds"].split(), map(float, line["ap"].split()), strict=True))


def _mean(line: dict[str, str]) -> str:
    return spread(list(_by_seed(line).values()))


def _differences(run: dict[str, str], against: dict[str, str]) -> str:
    """The mean and each seed's; as the table has them, more exact than from its APs, if it compares the same two."""
    one, other = _by_seed(run), _by_seed(against)
    change = [one[seed] - other[seed] for seed in one if seed in other]
    if not against["difference"] and run["by_seed"]:
        change = [float(value) for value in run["by_seed"].split()]
    return f"**{statistics.mean(change):+.1f}** ({' '.join(f'{c:+.1f}' for c in change)})" if change else "-"


def _title(name: str) -> str:
    return (RESULTS / name / "table.md").read_text(encoding="utf-8").splitlines()[0].removeprefix("## ")


def _anchor(title: str) -> str:
    """The fragment that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _study(name: str) -> str:
    """One study's table, a heading deeper than it was written, and its notes."""
    file = RESULTS / name / "table.md"
    text = re.sub(r"\((table|speed)\.png\)", rf"(results/{name}/\1.png)", file.read_text(encoding="utf-8"))
    notes = file.with_name("notes.md")
    return f"#{text}" + ("\n" + notes.read_text(encoding="utf-8") if notes.is_file() else "")


def keep(folder: Path) -> None:
    """Copies a study's tables, its picture and the evidence for them."""
    if not (STUDIES / f"{folder.name}.yaml").is_file():
        raise SystemExit(f"{folder}: there is no studies/{folder.name}.yaml; name the folder as its study")
    evidence = [file.with_name(name) for file in folder.glob(f"*/seed*/{EVIDENCE[0]}") for name in EVIDENCE]
    speeds = [file for pattern in SPEEDS for file in folder.glob(pattern)]
    for source in [*(folder / name for name in TABLES), *evidence, *speeds]:
        target = RESULTS / folder.name / source.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())


def main(arguments: list[str]) -> int:
    file = HERE / "results.md"
    if arguments == ["--check"]:
        return int(file.read_text(encoding="utf-8") != page())
    for folder in arguments:
        keep(Path(folder))
    file.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
