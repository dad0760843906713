"""Writes docs/performance.md from the benchmarks' JSON files: ``python docs/make_performance.py`` (see its end)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mimicdet.report.table import table

HERE = Path(__file__).parent
MEASURED = HERE / "performance"

INTRODUCTION = """\
# How fast it is

Every table is the output of one script of `benchmarks/`, in one run, with all rows measured in alternation.
Times are medians, with the 10th to 90th percentile.
**Ratio** is MimicDet's time over that row's: below 1, MimicDet is faster.
For the rows `mimicdet:...` it is the share of the whole.
Only ratios within a table mean anything. The machine is shared, and its speed changes by a third from hour to hour.

Models have random weights and detect nothing, so that no one's time depends on the detections.
Images are not resized, and batch norm is frozen in all.
`eager` is each as its users get it: `Detector` runs MimicDet with batch norm folded and in channels last.
`treated` gives the others the same treatment.

"""

SECTIONS: dict[str, tuple[str, str]] = {
    "latency_r50": ("One prediction, ResNet-50", "python benchmarks/latency.py"),
    "latency_sizes": (
        "One prediction, ResNet-50, smaller images",
        "python benchmarks/latency.py --size 400x544 600x800",
    ),
    "latency_lite0": (
        "One prediction, EfficientNet-Lite0",
        "python benchmarks/latency.py --backbone lite0 --size 400x544 600x800 800x1088",
    ),
    "latency_batch": (
        "Eight images at once, EfficientNet-Lite0",
        "python benchmarks/latency.py --backbone lite0 --size 400x544 --batch 8 --mode eager",
    ),
    "latency_compiled": ("One prediction, compiled", "python benchmarks/latency.py --mode compiled"),
    "latency_bf16": ("One prediction, bf16", "python benchmarks/latency.py --precision bf16 --mode eager"),
    "train_step": ("One training step", "python benchmarks/train_step.py"),
    "distill_step": ("One step of a student with a teacher", "python benchmarks/distill_step.py"),
    "export": ("Other runtimes", "python benchmarks/export.py"),
    "scaling": ("How cost grows", "python benchmarks/scaling.py"),
}


def page() -> str:
    """Returns the whole of performance.md."""
    parts = [INTRODUCTION + (MEASURED / "summary.md").read_text()]
    for name, (title, command) in SECTIONS.items():
        if (file := MEASURED / f"{name}.json").is_file():
            content = json.loads(file.read_text())
            picture = f"![{title}](performance/{name}.png)\n\n" if (MEASURED / f"{name}.png").is_file() else ""
            about = f"`{command}`, {_machine(content['machine'])}"
            parts.append(f"## {title}\n\n{about}\n\n{picture}{_table(content['rows'])}\n")
    return "\n".join(parts)


def _table(rows: list[dict[str, Any]]) -> str:
    has_memory = any(row.get("peak_mib") is not None for row in rows)
    header = ["model", "mode", "precision", "size", "batch", "ms", "10 %..90 %", "ratio"]
    header += ["peak MiB"] if has_memory else []
    cells = []
    for row in rows:
        what = [row["model"], row["mode"], row["precision"], f"{row['height']}x{row['width']}", str(row["batch"])]
        times = [f"{row['median_ms']:.1f}", f"{row['low_ms']:.1f}..{row['high_ms']:.1f}"]
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3f}"
        memory = "" if row.get("peak_mib") is None else f"{row['peak_mib']:.0f}"
        cells.append([*what, *times, ratio, *([memory] if has_memory else [])])
    return table(header, cells, style="markdown")


def _machine(machine: dict[str, Any]) -> str:
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return f"on {where}; {versions}"


def main(arguments: list[str]) -> int:
    """Writes the page; with ``--check`` only says whether it is up to date."""
    file = HERE / "performance.md"
    if arguments == ["--check"]:
        return int(file.read_text() != page())
    file.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
