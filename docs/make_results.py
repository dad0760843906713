"""Writes docs/results.md from finished studies.

    python docs/make_results.py runs/table1_aquarium_cpu runs/distill_gfl_aquarium_cpu

copies what `mimicdet study` wrote into those folders to docs/results, and writes the page anew; without folders, the
page alone. `--check` says whether it is up to date.

Of each run two small files are kept: its figures, and what became of each of its detections. They are enough for
`mimicdet study studies/NAME.yaml --out docs/results/NAME --table`, which makes the table with its intervals again.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STUDIES = HERE.parent / "studies"
TABLES = ("table.md", "table.csv", "table.png")
EVIDENCE = ("result.json", "judged.npz")


def page() -> str:
    """The whole of results.md: the introduction, then every study by name, each with the notes beside it."""
    parts = [(RESULTS / "introduction.md").read_text(encoding="utf-8")]
    for file in sorted(RESULTS.glob("*/table.md")):
        text = file.read_text(encoding="utf-8").replace("(table.png)", f"(results/{file.parent.name}/table.png)")
        notes = file.with_name("notes.md")
        parts.append(text + ("\n" + notes.read_text(encoding="utf-8") if notes.is_file() else ""))
    return "\n".join(parts)


def keep(folder: Path) -> None:
    """Copies a study's tables, its picture and the evidence for them."""
    if not (STUDIES / f"{folder.name}.yaml").is_file():
        raise SystemExit(f"{folder}: there is no studies/{folder.name}.yaml; name the folder as its study")
    evidence = [file.with_name(name) for file in folder.glob(f"*/seed*/{EVIDENCE[0]}") for name in EVIDENCE]
    for source in [*(folder / name for name in TABLES), *evidence]:
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
