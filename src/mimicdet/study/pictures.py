"""The pictures of a study's table: AP of every run and seed, and AP against time."""

from __future__ import annotations

import io
import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_COLORS = {True: "#999999", False: "#0072B2"}  # the baseline, the others
_HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_FORMS = ("s", "D", "^", "v", "P", "X", "*", "p")


class Row(NamedTuple):
    """What the pictures show of a run."""

    name: str
    ap: tuple[float, ...]  # in points, of each seed
    milliseconds: float | None
    is_baseline: bool


def picture_of_ap(title: str, rows: Sequence[Row]) -> bytes:
    """A PNG: a mark at each run's mean, a dot for each seed; no bars, for the axis does not begin at 0."""
    figure = Figure(figsize=(8, 0.5 * len(rows) + 1.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = list(range(len(rows)))[::-1]
    for place, row in zip(places, rows, strict=True):
        mean, color = statistics.mean(row.ap), _COLORS[row.is_baseline]
        if row.is_baseline:
            axes.axvline(mean, color=color, linestyle="--", linewidth=1, zorder=0)
        axes.plot([mean], [place], "|", color=color, markersize=22, markeredgewidth=4)
        axes.plot(row.ap, [place] * len(row.ap), "o", color="#222222", markersize=4)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(places, [row.name for row in rows])
    axes.set_xlim(*_limits([value for row in rows for value in row.ap]))
    axes.set_xlabel("AP in points: mean (mark) and each seed (dot); dashed: the baseline")
    axes.set_title(title)
    return _png(figure)


def picture_of_speed(title: str, rows: Sequence[Row]) -> bytes:
    """A PNG: each run's mean AP over the milliseconds of an image, where they were measured; up and left is better."""
    timed = [(row, row.milliseconds) for row in rows if row.milliseconds is not None]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    looks = _looks()  # the baseline takes none of them
    for row, milliseconds in timed:
        color, form = (_COLORS[True], "o") if row.is_baseline else next(looks)
        axes.plot([milliseconds] * 2, [min(row.ap), max(row.ap)], "-", color=color, linewidth=1.5)
        axes.plot([milliseconds], [statistics.mean(row.ap)], form, color=color, markersize=9, label=row.name)
    longest = max(milliseconds for _, milliseconds in timed)
    axes.set_xlim(0, 1.1 * longest)
    axes.set_ylim(*_limits([value for row, _ in timed for value in row.ap]))
    axes.set_xlabel("milliseconds of an image")
    axes.set_ylabel("AP in points: mean, lowest to highest seed")
    axes.set_title(title)
    figure.legend(loc="outside right upper", frameon=False)  # beside: names in the picture would hide what it shows
    return _png(figure)


def _looks() -> Iterator[tuple[str, str]]:
    """Colours and, for the colour-blind, forms; of one list there is one more, so that no pair comes soon again."""
    return zip(itertools.cycle(_HUES), itertools.cycle(_FORMS))


def _limits(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = max(0.15 * (high - low), 1.0)
    return max(0.0, low - margin), high + margin


def _png(figure: Figure) -> bytes:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    written = io.BytesIO()
    figure.savefig(written, dpi=120, format="png")
    return written.getvalue()
