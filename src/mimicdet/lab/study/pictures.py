"""Draws a study's table: AP of every run and seed, what it gains on the baseline, and AP against time."""

import io
import itertools
import statistics
import textwrap
from collections.abc import Iterator, Sequence

from matplotlib.figure import Figure

from mimicdet.lab.study.comparison import Line

_COLORS = {True: "#999999", False: "#0072B2"}  # the baseline, the others
_HUES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LONGEST_LINE = 40  # characters of a run's name; a longer one would leave the axes no room
_FORMS = ("s", "D", "^", "v", "P", "X", "*", "p")


def figure_of_ap(title: str, lines: Sequence[Line]) -> Figure:
    """Draws a mark at each run's mean and a dot for each seed; no bars, for the axis does not begin at 0.

    Beside it, where there is a baseline, how far each lies from it, with the interval over images.
    """
    compared = any(line.difference for line in lines)
    figure = Figure(figsize=(12 if compared else 8, 0.5 * len(lines) + 1.4), layout="constrained")
    axes, beside = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2)) if compared else [figure.subplots()] * 2
    if compared:
        beside.axvline(0, color=_COLORS[True], linestyle="--", linewidth=1, zorder=0)
        beside.tick_params(axis="y", length=0)
        beside.set_xlabel("difference from the baseline: mean,\n95 % over images (line),\neach seed (dot)")
    places = range(len(lines))[::-1]
    for place, line in zip(places, lines, strict=True):
        mean, color = statistics.mean(line.ap), _COLORS[line.is_baseline]
        if line.is_baseline:
            axes.axvline(mean, color=color, linestyle="--", linewidth=1, zorder=0)
        axes.plot([mean], [place], "|", color=color, markersize=22, markeredgewidth=4)
        axes.plot(line.ap, [place] * len(line.ap), "o", color="#222222", markersize=4)
        if (one := line.difference) is not None:
            beside.plot(one.interval, [place] * 2, "-", color=_COLORS[False], linewidth=2.5)
            beside.plot([one.mean], [place], "|", color=_COLORS[False], markersize=12, markeredgewidth=3)
            beside.plot(one.by_seed, [place] * len(one.seeds), "o", color="#222222", markersize=4)
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.set_yticks(places, [textwrap.fill(line.name, _LONGEST_LINE) for line in lines])
    axes.set_xlim(*_limits([value for line in lines for value in line.ap]))
    axes.set_xlabel("AP in points:\nmean (mark), each seed (dot)")
    figure.suptitle(title)
    return figure


def figure_of_speed(title: str, lines: Sequence[Line]) -> Figure:
    """Draws each run's mean AP over the milliseconds of an image, where measured; up and left is better."""
    timed = [(line, line.speed.median) for line in lines if line.speed is not None]
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    looks = _looks()  # the baseline takes none of them
    for line, milliseconds in timed:
        color, form = (_COLORS[True], "o") if line.is_baseline else next(looks)
        axes.plot([milliseconds] * 2, [min(line.ap), max(line.ap)], "-", color=color, linewidth=1.5)
        axes.plot([milliseconds], [statistics.mean(line.ap)], form, color=color, markersize=9, label=line.name)
    axes.set_xlim(0, 1.1 * max(milliseconds for _, milliseconds in timed))
    axes.set_ylim(*_limits([value for line, _ in timed for value in line.ap]))
    axes.set_xlabel("milliseconds of an image")
    axes.set_ylabel("AP in points: mean, lowest to highest seed")
    axes.set_title(title)
    figure.legend(loc="outside right upper", frameon=False)  # beside: names in the picture would hide what it shows
    return figure


def _looks() -> Iterator[tuple[str, str]]:
    """Yields colours and, for the colour-blind, forms; one list is longer, so that no pair comes soon again."""
    return zip(itertools.cycle(_HUES), itertools.cycle(_FORMS))


def _limits(values: Sequence[float]) -> tuple[float, float]:
    margin = max(0.15 * (max(values) - min(values)), 1.0)
    return max(0.0, min(values) - margin), max(values) + margin


def png(figure: Figure) -> bytes:
    """Returns a figure as a PNG file has it."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    written = io.BytesIO()
    figure.savefig(written, dpi=120, format="png")
    return written.getvalue()
