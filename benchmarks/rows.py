"""What every benchmark prints and writes: rows of one table, as text, JSON and a picture, with the machine named."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mimicdet.lab.bench import Timing, ratio
from mimicdet.report.table import table


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model at one setting. ``ratio``: MimicDet's time over this model's, measured side by side in one run."""

    model: str
    backbone: str
    device: str
    precision: str
    mode: str
    height: int
    width: int
    batch: int
    median_ms: float
    low_ms: float
    high_ms: float
    ratio: float | None
    peak_mib: float | None = None
    """Peak memory of a step above what the model itself takes, where it was measured."""


def rows_of(timings: Mapping[str, Timing], reference: str | None, **setting: Any) -> list[Row]:
    """Rows of models that were measured in alternation; ``reference`` is whose ratio to each is given."""
    return [
        Row(
            model=name,
            median_ms=round(timing.median, 3),
            low_ms=round(timing.low, 3),
            high_ms=round(timing.high, 3),
            ratio=None if reference is None else round(ratio(timings[reference], timing), 4),
            **setting,
        )
        for name, timing in timings.items()
    ]


def print_rows(rows: Sequence[Row]) -> None:
    no_memory = all(row.peak_mib is None for row in rows)
    cells = [
        [
            row.model,
            row.backbone,
            row.device,
            row.precision,
            row.mode,
            f"{row.height}x{row.width}",
            str(row.batch),
            f"{row.median_ms:.1f}",
            f"{row.low_ms:.1f}..{row.high_ms:.1f}",
            "" if row.ratio is None else f"{row.ratio:.3f}",
            *([] if no_memory else ["" if row.peak_mib is None else f"{row.peak_mib:.0f}"]),
        ]
        for row in rows
    ]
    header = ["model", "backbone", "device", "precision", "mode", "size", "batch", "ms", "10 %..90 %", "ratio"]
    header += [] if no_memory else ["peak MiB"]
    print(table(header, cells), flush=True)


def parser(description: str, name: str) -> argparse.ArgumentParser:
    """With the options that all benchmarks have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the rows, the machine and the versions here")
    made.add_argument("--png", type=Path, metavar="FILE", default=Path(f"runs/bench/{name}.png"), help="the picture")
    made.add_argument("--rounds", type=int, default=15, metavar="N", help="measurements of each case that count")
    made.add_argument("--threads", type=int, default=torch.get_num_threads(), metavar="N", help="CPU threads, for all")
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return made


def machine(device: str) -> dict[str, Any]:
    names = ("torch", "torchvision", "timm", "onnxruntime", "openvino")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None,
        "system": platform.platform(),
        "versions": {"python": platform.python_version()} | {name: v for name in names if (v := _version(name))},
    }


def write(rows: Sequence[Any], options: argparse.Namespace, draw: Any) -> None:
    """JSON where asked for, and the picture that ``draw(axes)`` puts on matplotlib axes."""
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        content = {"machine": machine(options.device), "rows": [asdict(row) for row in rows]}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
        print(options.json)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    draw(figure.subplots())
    options.png.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.png, dpi=120)
    print(options.png)


def bars(axes: Any, labels: Sequence[str], timings: Sequence[tuple[float, float, float]], title: str) -> None:
    """Horizontal bars of (median, low, high) milliseconds, the first label on top."""
    places = list(range(len(labels)))[::-1]
    medians = [t[0] for t in timings]
    errors = [[t[0] - t[1] for t in timings], [t[2] - t[0] for t in timings]]
    colors = ["#d95f02" if label.startswith("mimicdet") else "#7570b3" for label in labels]
    axes.barh(places, medians, xerr=errors, color=colors, error_kw={"elinewidth": 1, "ecolor": "#444444"})
    axes.set_yticks(places, labels)
    axes.set_xlabel("milliseconds (median; 10th to 90th percentile)")
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except Exception:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
