"""Writes docs/results.md from finished studies.

    python docs/make_results.py runs/table1_aquarium_cpu runs/distill_gfl_aquarium_cpu

copies what `mimicdet study` wrote into those folders to docs/results, and writes the page anew; without folders, the
page alone. `--check` says whether it is up to date.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
STUDIES = HERE.parent / "studies"


def page() -> str:
    """The whole of results.md: the introduction, then every study by name, each with the notes beside it."""
    parts = [(RESULTS / "introduction.md").read_text(encoding="utf-8")]
    for file in sorted(RESULTS.glob("*.table.md")):
        name = file.name.removesuffix(".table.md")
        text = file.read_text(encoding="utf-8").replace("(table.png)", f"(results/{name}.png)")
        notes = RESULTS / f"{name}.notes.md"
        parts.append(text + ("\n" + notes.read_text(encoding="utf-8") if notes.is_file() else ""))
    return "\n".join(parts)


def keep(folder: Path) -> None:
    """Copies a study's tables and picture."""
    if not (STUDIES / f"{folder.name}.yaml").is_file():
        raise SystemExit(f"{folder}: there is no studies/{folder.name}.yaml; name the folder as its study")
    RESULTS.mkdir(exist_ok=True)
    for source, target in (("table.md", "table.md"), ("table.csv", "csv"), ("table.png", "png")):
        (RESULTS / f"{folder.name}.{target}").write_bytes((folder / source).read_bytes())


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
