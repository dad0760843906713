"""Writes what a study shows: its table, as Markdown, CSV and picture, and how far each two runs lie apart."""

import io
import itertools
import statistics
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from mimicdet.errors import UserError
from mimicdet.files import failures_of, replace_file
from mimicdet.lab.explain.report import csv_text
from mimicdet.lab.study.comparison import Differences, Line, RunDifference
from mimicdet.lab.study.study_file import StudyFile
from mimicdet.report.table import table

_DASH = "-"
HOW_TO_READ = (
    "AP is that of the last weights, as mean and standard deviation over the seeds. Differences are over the seeds "
    "that a row has in common with the baseline, with the 95 % interval of a paired bootstrap over images; what other "
    "seeds would give is not in it, so see each seed's difference. Minutes are of one training."
)
"""Stands above every table."""
_HOW_FAST = (
    " ms: of one image, from its pixels at the model's own size in memory to detections, on {}, all models in turn; in "
    "brackets the share of the baseline's time, image by image, so that a slower moment of the machine is in both; "
    "medians all."
)


def write_report(study: StudyFile, lines: Sequence[Line], differences: Differences, about: str, out: Path) -> str:
    """Writes a study's tables and pictures into ``out``, and returns the table as text for a terminal.

    These are table.md, table.csv and table.png, differences.csv, diagnostics.csv (how each run's last epoch went, where
    any run has left that) and, of a study with speeds, speed.png. ``about`` stands above the table: what was measured
    and the command that makes it. UserError where a file cannot be written; a picture costs nothing but itself.
    """
    columns = _columns(lines)
    rows = [[cell(line) for cell in columns.values()] for line in lines]
    timed = any(line.speed for line in lines)
    words = [f"## {study.title}", study.about.strip(), about + _how_measured(study, lines), HOW_TO_READ]
    drawn = [f"![{study.title}](table.png)", "![AP and milliseconds](speed.png)" if timed else ""]
    parts = filter(None, [*words, *drawn, table(list(columns), rows, style="markdown")])
    replace_file(out / "table.md", ("\n\n".join(parts) + "\n").encode())
    replace_file(out / "table.csv", _table_csv(lines, timed=timed).encode())
    replace_file(out / "differences.csv", differences_csv(differences).encode())
    if diagnostics := diagnostics_csv({(o.run, o.seed): o.diagnostics for line in lines for o in line.outcomes}):
        replace_file(out / "diagnostics.csv", diagnostics.encode())
    else:
        (out / "diagnostics.csv").unlink(missing_ok=True)

    def draw(name: str, figure: Callable[[str, Sequence[Line]], Figure]) -> None:
        replace_file(out / name, png(figure(study.title, lines)))

    pictures = [("table.png", figure_of_ap), *([("speed.png", figure_of_speed)] if timed else [])]
    if failures := failures_of(*(partial(draw, *picture) for picture in pictures)):
        raise UserError(f"{'; '.join(failures)}; {out} has the tables")
    return table(list(columns), rows)


def differences_csv(differences: Differences) -> str:
    """Returns a table with a line for each two runs."""
    rows = ([*runs, _listed(one.seeds), *_cells_of_difference(one)] for runs, one in differences.items())
    return csv_text([["run", "against", "seeds", "by_seed", "difference", "low", "high"], *rows])


def diagnostics_csv(found: Mapping[tuple[str, int], Mapping[str, float]]) -> str:
    """Returns a table with a line for each run and seed that has diagnostics; empty where none has any."""
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    rows = ([*k, *(f"{row[n]:.4g}" if n in row else "" for n in names)] for k, row in found.items() if row)
    return csv_text([["run", "seed", *names], *rows]) if names else ""


def _table_csv(lines: Sequence[Line], *, timed: bool) -> str:
    header = ["name", "seeds", "ap", "ap50", "ap75", "teacher_ap", "seconds", "by_seed", "difference", "low", "high"]
    rows = [[*header, "published", *(["ms"] if timed else [])]]
    for line in lines:
        metrics = line.ap, line.metric("AP50"), line.metric("AP75")
        row = [line.name, *(_listed(values) for values in (line.seeds, *metrics, line.teacher_ap, line.seconds))]
        row += _cells_of_difference(line.difference) if line.difference else [""] * 4
        row += [line.published, *([f"{line.speed.median:.4g}" if line.speed else ""] if timed else [])]
        rows.append(row)
    return csv_text(rows)


def _cells_of_difference(difference: RunDifference) -> list[str]:
    return [_listed(difference.by_seed), *(f"{number:.4g}" for number in (difference.mean, *difference.interval))]


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _how_measured(study: StudyFile, lines: Sequence[Line]) -> str:
    """Says on what the lines were measured and for how long, what is not trained yet, and how speeds were measured."""
    machines = "; ".join(sorted({one.machine for line in lines for one in line.outcomes}))
    text = f" on {machines}; {sum(sum(line.seconds) for line in lines) / 3600:.1f} hours of training."
    done = {line.name: line.seeds for line in lines}
    missing = [
        f"{run.name} ({', '.join(f'seed {seed}' for seed in left)})"
        for run in study.runs
        if (left := [seed for seed in run.seeds or study.seeds if seed not in done.get(run.name, [])])
    ]
    text += f" Not trained yet: {'; '.join(missing)}." if missing else ""
    devices = "; ".join(sorted({line.speed.device for line in lines if line.speed}))
    return text + (_HOW_FAST.format(devices) if devices else "")


def _columns(lines: Sequence[Line]) -> dict[str, Callable[[Line], str]]:
    """Returns what makes a line's cell, by the column's heading; columns that would be empty are left out."""
    baseline = next((line for line in lines if line.is_baseline), None)
    columns: dict[str, Callable[[Line], str]] = {
        "run": lambda line: line.name,
        "AP": lambda line: spread(line.ap),
        "difference": _change,
        "by seed": lambda line: " ".join(f"{v:+.1f}" for v in line.difference.by_seed) if line.difference else _DASH,
        "AP50": lambda line: spread(line.metric("AP50")),
        "AP75": lambda line: spread(line.metric("AP75")),
        "seeds": lambda line: ranges(line.seeds),
        "minutes": lambda line: f"{statistics.mean(line.seconds) / 60:.1f}",
        "ms (ratio)": lambda line: _time(line, baseline),
        "T-head AP (kept)": _of_teacher,
        "published": lambda line: line.published or _DASH,
    }
    filled = {
        "by seed": any(line.difference and len(line.difference.seeds) > 1 for line in lines),
        "ms (ratio)": any(line.speed for line in lines),
        "T-head AP (kept)": any(line.teacher_ap for line in lines),
        "published": any(line.published for line in lines),
    }
    return {name: cell for name, cell in columns.items() if filled.get(name, True)}


def _change(line: Line) -> str:
    if line.is_baseline or line.difference is None:
        return "baseline" if line.is_baseline else _DASH
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(line.difference.mean, *line.difference.interval)


def ranges(seeds: Sequence[int]) -> str:
    """Returns seeds such as ``0-2, 5``."""
    found: list[list[int]] = []
    for seed in sorted(seeds):
        if found and seed == found[-1][-1] + 1:
            found[-1] = [found[-1][0], seed]
        else:
            found.append([seed])
    return ", ".join("-".join(map(str, one)) for one in found)


def _time(line: Line, baseline: Line | None) -> str:
    if line.speed is None:
        return _DASH
    share = line.speed.over(baseline.speed) if baseline and baseline.speed else None
    return f"{line.speed.median:.1f}" + ("" if share is None else f" ({share:.2f})")


def _of_teacher(line: Line) -> str:
    """Returns the T-head's AP, and which share of it the S-head has."""
    if not line.teacher_ap:
        return _DASH
    kept = 100 * statistics.mean(line.ap) / statistics.mean(line.teacher_ap)
    return f"{spread(line.teacher_ap)} ({kept:.0f} %)"


def spread(values: Sequence[float]) -> str:
    """Returns mean and standard deviation, as tables show them."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


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
