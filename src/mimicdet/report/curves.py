"""Draws the curves of a run from its metrics.jsonl: losses, learning rate, AP, and the diagnostics."""

import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mimicdet.files import replace_file
from mimicdet.streams import require_plain

_BOOKKEEPING = {"kind", "step", "epoch", "lr", "grad_norm", "skipped_steps", "data_wait"}
_BOOKKEEPING |= {"seconds", "seconds_per_step", "peak_memory_gib"}
# Okabe and Ito's palette, for colour-blind readers; line styles tell the second seven from the first.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#999999")
_STYLES = ("-", "--", ":")
_MANY_POINTS = 120
"""With more points than this a curve is drawn pale, and its running mean in full colour."""


@dataclass(frozen=True)
class _Panel:
    title: str
    kind: str  # of the records: "train" or "eval"
    names: tuple[str, ...]
    prefix: str = ""  # of the names, left out of the legend
    log: bool = False
    limits: tuple[float, float] | None = None
    bold: str | None = None
    smooth: bool = True


def draw_curves(metrics_jsonl: Path, out_png: Path) -> None:
    """Draws one PNG with a panel for each family of numbers that the records hold.

    Args:
        metrics_jsonl: of a run, finished or not; lines cut off by a crash are skipped (see
            ``mimicdet.engine.run_folder``). A file without records gives a picture that says so.
        out_png: written in one piece; UserError when it cannot be.
    """
    records = _read(metrics_jsonl)
    panels = _panels(records)
    columns = min(3, max(1, math.ceil(math.sqrt(len(panels)))))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(6.4 * columns, 3.6 * rows), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    if not panels:
        figure.text(0.5, 0.5, "no records yet", ha="center", va="center", size="large")
    for i, panel in enumerate(panels):
        _draw(figure.add_subplot(rows, columns, i + 1), panel, [r for r in records if r.get("kind") == panel.kind])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    replace_file(out_png, buffer.getvalue())


def _read(metrics_jsonl: Path) -> list[dict[str, Any]]:
    require_plain(metrics_jsonl)
    records = []
    for line in metrics_jsonl.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):  # the run was killed while it wrote this line, or is writing it now
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def _panels(records: Iterable[dict[str, Any]]) -> list[_Panel]:
    names: dict[str, list[str]] = {"train": [], "eval": []}
    for record in records:
        known = names.setdefault(str(record.get("kind")), [])
        known.extend(k for k, v in record.items() if _is_number(v) and k not in known)
    train, evaluated = names["train"], names["eval"]
    rest = [name for name in train if name.startswith("diag/")]

    def take(*beginnings: str) -> tuple[str, ...]:
        chosen = tuple(name for name in rest if name.removeprefix("diag/").startswith(beginnings))
        rest[:] = [name for name in rest if name not in chosen]
        return chosen

    def by_level(name: str) -> tuple[str, ...]:
        return take(*(f"{name}_p{number}" for number in range(2, 8)))

    def cosines(title: str, names: tuple[str, ...]) -> _Panel:
        return _Panel(f"cosine of S-head and T-head{title}", "train", names, "diag/", limits=(-0.2, 1))

    losses = sorted((n for n in train if "/" not in n and n not in _BOOKKEEPING), key=lambda n: n != "loss")
    norms = tuple(name for name in train if name.startswith("grad_norm"))
    accuracy = tuple(n for n in ("AP", "AP50", "AP75", "teacher/AP", "teacher/AP50", "teacher/AP75") if n in evaluated)
    panels = [
        _Panel("losses, unweighted; the total in bold", "train", tuple(losses), log=True, bold="loss"),
        _Panel("AP on the evaluation images, from 0 to 100", "eval", accuracy, limits=(0, 100)),
        _Panel("learning rate", "train", tuple(n for n in train if n == "lr"), smooth=False),
        _Panel("recall of proposals, at IoU in percent", "train", take("recall"), "diag/", limits=(0, 1)),
        cosines(", classes, by level", by_level("cosine_class")),
        cosines(", boxes, by level", by_level("cosine_box")),
        cosines("", take("cosine")),
        _Panel("positives and proposals of an image", "train", take("anchor_positives", "proposal"), "diag/", log=True),
        _Panel("length of the S-head's offsets by level, in cells", "train", by_level("offset_length"), "diag/"),
        _Panel("taps: share in the box, offset in cells", "train", take("taps", "offset"), "diag/", limits=(0, 1)),
        _Panel("offsets the S-head has learned, in cells", "train", take("learned_offset"), "diag/"),
        _Panel("other diagnostics", "train", tuple(rest), "diag/"),
        _Panel("gradient norm, all modules in bold", "train", norms, "grad_norm/", log=True, bold="grad_norm"),
    ]
    return [panel for panel in panels if panel.names]


def _draw(axes: Axes, panel: _Panel, records: Sequence[dict[str, Any]]) -> None:
    largest = 0.0
    for i, name in enumerate(panel.names):
        points = [(r["epoch"], r[name]) for r in records if _is_number(r.get("epoch")) and _is_number(r.get(name))]
        x, y = np.array(points, dtype=float).reshape(-1, 2).T
        if panel.kind == "eval":
            y = np.where(y < 0, np.nan, 100 * y)  # COCO's -1, in records of older versions: undefined
        if panel.log:
            y = np.where(y > 0, y, np.nan)
        style = _style(panel, i)
        if panel.smooth and len(x) > _MANY_POINTS:
            axes.plot(x, y, color=style["color"], linewidth=0.5, alpha=0.3)
            y = _running_mean(y, max(5, len(x) // 40))
        marker = "o" if len(x) <= 30 else None
        axes.plot(x, y, label=name.removeprefix(panel.prefix), marker=marker, markersize=3.5, **style)
        largest = max(largest, float(np.nanmax(y, initial=0, where=np.isfinite(y))))
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel("epoch")
    if panel.log and largest > 0:
        axes.set_yscale("log")
    elif panel.limits is not None:
        # Wider where values lie above; half or a quarter of it where all are low, so that poor beginnings can be read.
        low, high = panel.limits
        visible = 1e-3 * high
        while low == 0 and visible < largest < 0.45 * high:
            high /= 2
        axes.set_ylim(low, max(high, 1.05 * largest))
    axes.grid(visible=True, alpha=0.25)
    if len(panel.names) > 1:
        axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)


def _style(panel: _Panel, i: int) -> dict[str, Any]:
    """Returns the style of the panel's i-th curve; a T-head's is dashed, its points hollow, in its S-head's colour."""
    name = panel.names[i]
    if name == panel.bold:
        return {"color": "black", "linewidth": 2.2}
    student = name.removeprefix("teacher/")
    if student != name and student in panel.names:
        color = _COLORS[panel.names.index(student) % len(_COLORS)]
        return {"color": color, "linestyle": "--", "linewidth": 1.4, "markerfacecolor": "white"}
    return {"color": _COLORS[i % len(_COLORS)], "linestyle": _STYLES[i // len(_COLORS) % 3], "linewidth": 1.4}


def _running_mean(y: np.ndarray, window: int) -> np.ndarray:
    """Returns means over windows of neighbours, shorter at the ends; values that are not finite are left out."""
    finite, kernel = np.isfinite(y), np.ones(window)
    total = np.convolve(np.where(finite, y, 0), kernel, mode="same")
    count = np.convolve(finite.astype(float), kernel, mode="same")
    return np.divide(total, count, out=np.full_like(y, np.nan), where=count > 0.5)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
