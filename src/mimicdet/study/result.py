"""The table of a study: mean and spread over seeds, differences with their intervals; as Markdown, CSV and picture."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mimicdet.data.dataset import DetectionDataset
from mimicdet.files import replace_file
from mimicdet.report.table import table
from mimicdet.study.bootstrap import paired_interval, resampled_ap
from mimicdet.study.outcome import Outcome
from mimicdet.study.plan import Study

_COLORS = {"baseline": "#999999", "other": "#0072B2"}
_DASH = "-"


@dataclass(frozen=True)
class Line:
    """One row: a run, over its finished seeds. AP in points."""

    name: str
    seeds: tuple[int, ...]
    ap: tuple[float, ...]
    ap50: tuple[float, ...]
    ap75: tuple[float, ...]
    teacher_ap: tuple[float, ...]
    seconds: tuple[float, ...]
    difference: float | None  # from the baseline, over the seeds that both have
    interval: tuple[float, float] | None
    by_seed: tuple[float, ...]  # each of those seeds' own difference
    machines: tuple[str, ...]  # that the seeds were measured on
    published: str


def lines_of(study: Study, outcomes: Sequence[Outcome], *, samples: int) -> list[Line]:
    """A row for each run of which at least one seed is finished.

    Args:
        samples: of the bootstrap.
    """
    judged = {(o.job.run, o.job.seed): o.judged for o in outcomes}
    baseline = study.baseline
    resampled = cache(lambda name, seed: resampled_ap(judged[name, seed], samples=samples))
    lines = []
    for run in study.runs:
        own = [o for o in outcomes if o.job.run == run.name]
        if not own:
            continue
        difference = interval = None
        by_seed: tuple[float, ...] = ()
        shared = [o.job.seed for o in own if (baseline, o.job.seed) in judged]
        if baseline is not None and baseline != run.name and shared:
            by_seed = tuple(100 * (judged[run.name, seed].ap() - judged[baseline, seed].ap()) for seed in shared)
            difference = statistics.mean(by_seed)
            low, high = paired_interval(*([resampled(name, seed) for seed in shared] for name in (run.name, baseline)))
            interval = (100 * low, 100 * high)
        numbers = {name: tuple(100 * o.metrics[name] for o in own) for name in ("AP", "AP50", "AP75")}
        lines.append(
            Line(
                name=run.name, seeds=tuple(o.job.seed for o in own), ap=numbers["AP"], ap50=numbers["AP50"],
                ap75=numbers["AP75"], teacher_ap=tuple(100 * o.teacher_ap for o in own if o.teacher_ap is not None),
                seconds=tuple(o.seconds for o in own), difference=difference, interval=interval,
                by_seed=by_seed, machines=tuple(o.machine for o in own), published=run.published,
            )
        )  # fmt: skip
    return lines


def write_results(study: Study, lines: Sequence[Line], dataset: DetectionDataset, command: str, out: Path) -> str:
    """Writes table.md, table.csv and table.png into ``out``; returns the table as text for a terminal."""
    header, rows = _cells(study, lines)
    machines = "; ".join(sorted({machine for line in lines for machine in line.machines}))
    hours = sum(sum(line.seconds) for line in lines) / 3600
    about = (
        f"{dataset.split} of {dataset.root.name}: {len(dataset)} images. `{command}` on {machines}; {hours:.1f} "
        "hours of training. Last weights; mean and standard deviation over seeds; differences with the 95 % interval "
        "of a paired bootstrap over images. What other seeds would give is not in it; see each seed's difference."
        f"{_missing(study, lines)}"
    )
    text = f"{study.about.strip()}\n\n" if study.about else ""
    markdown = f"## {study.title}\n\n{text}{about}\n\n![{study.title}](table.png)\n\n"
    markdown += table(header, rows, style="markdown") + "\n"
    replace_file(out / "table.md", markdown.encode())
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    names = ("seeds", "ap", "ap50", "ap75", "teacher_ap", "seconds")
    writer.writerow(["name", *names, "by_seed", "difference", "low", "high", "published"])
    for line in lines:
        listed = [" ".join(f"{value:.4g}" for value in getattr(line, name)) for name in (*names, "by_seed")]
        low, high = line.interval or ("", "")
        writer.writerow(
            [line.name, *listed, "" if line.difference is None else line.difference, low, high, line.published]
        )
    replace_file(out / "table.csv", written.getvalue().encode())
    replace_file(out / "table.png", _picture(study, lines))
    return table(header, rows)


def _missing(study: Study, lines: Sequence[Line]) -> str:
    """A sentence on what is not trained yet, if anything."""
    done = {line.name: set(line.seeds) for line in lines}
    missing = [
        f"{run.name} ({', '.join(f'seed {seed}' for seed in left)})"
        for run in study.runs
        if (left := [seed for seed in run.seeds or study.seeds if seed not in done.get(run.name, set())])
    ]
    return f" Not trained yet: {'; '.join(missing)}." if missing else ""


def _cells(study: Study, lines: Sequence[Line]) -> tuple[list[str], list[list[str]]]:
    has_teacher = any(line.teacher_ap for line in lines)
    has_published = any(line.published for line in lines)
    has_seeds = any(len(line.by_seed) > 1 for line in lines)
    header = ["run", "AP", "difference", *(["by seed"] if has_seeds else []), "AP50", "AP75", "seeds", "minutes"]
    header += ["T-head AP"] if has_teacher else []
    header += ["published"] if has_published else []
    rows = []
    for line in lines:
        change = "baseline" if line.name == study.baseline else _DASH
        if line.difference is not None and line.interval is not None:
            change = f"{line.difference:+.1f} [{line.interval[0]:+.1f}, {line.interval[1]:+.1f}]"
        cells = [line.name, _spread(line.ap), change]
        cells += [" ".join(f"{value:+.1f}" for value in line.by_seed) or _DASH] if has_seeds else []
        cells += [_spread(line.ap50), _spread(line.ap75), str(len(line.seeds))]
        cells += [f"{statistics.mean(line.seconds) / 60:.1f}"]
        cells += [_spread(line.teacher_ap)] if has_teacher else []
        cells += [line.published or _DASH] if has_published else []
        rows.append(cells)
    return header, rows


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation."""
    if not values:
        return _DASH
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _picture(study: Study, lines: Sequence[Line]) -> bytes:
    """A mark at each mean, a dot for each seed; no bars, for the axis does not begin at 0."""
    figure = Figure(figsize=(8, 0.5 * len(lines) + 1.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    places = list(range(len(lines)))[::-1]
    colors = [_COLORS["baseline" if line.name == study.baseline else "other"] for line in lines]
    for place, line, color in zip(places, lines, colors, strict=True):
        mean = statistics.mean(line.ap)
        if line.name == study.baseline:
            axes.axvline(mean, color=color, linestyle="--", linewidth=1, zorder=0)
        axes.plot([mean], [place], "|", color=color, markersize=22, markeredgewidth=4)
        axes.plot(line.ap, [place] * len(line.ap), "o", color="#222222", markersize=4)
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.set_yticks(places, [line.name for line in lines])
    everything = [value for line in lines for value in line.ap]
    low, high = min(everything), max(everything)
    margin = max(0.15 * (high - low), 1.0)
    axes.set_xlim(max(0.0, low - margin), high + margin)
    axes.set_xlabel("AP in points: mean (mark) and each seed (dot); dashed: the baseline")
    axes.set_title(study.title)
    axes.spines[["top", "right"]].set_visible(False)
    written = io.BytesIO()
    figure.savefig(written, dpi=120, format="png")
    return written.getvalue()
