"""The table of a study: mean and spread over seeds, differences with their intervals; as Markdown, CSV and picture."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mimicdet.data.dataset import DetectionDataset
from mimicdet.files import replace_file
from mimicdet.report.table import table
from mimicdet.study.bootstrap import paired_interval, resampled_ap
from mimicdet.study.outcome import Outcome
from mimicdet.study.pictures import Row, picture_of_ap, picture_of_speed
from mimicdet.study.plan import Study
from mimicdet.study.speed import Speed

_DASH = "-"
SPEED_PICTURE = "speed.png"


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
    speed: Speed | None


def lines_of(
    study: Study, outcomes: Sequence[Outcome], *, samples: int, speeds: Mapping[str, Speed] | None = None
) -> list[Line]:
    """A row for each run of which at least one seed is finished.

    Args:
        samples: of the bootstrap.
        speeds: of the runs' models, by run, where they were measured.
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
                speed=(speeds or {}).get(run.name),
            )
        )  # fmt: skip
    return lines


def write_results(study: Study, lines: Sequence[Line], dataset: DetectionDataset, command: str, out: Path) -> str:
    """Writes table.md, table.csv, table.png and, of a study with speeds, speed.png into ``out``.

    Returns:
        The table as text for a terminal.
    """
    header, rows = _cells(study, lines)
    machines = "; ".join(sorted({machine for line in lines for machine in line.machines}))
    hours = sum(sum(line.seconds) for line in lines) / 3600
    about = (
        f"{dataset.split} of {dataset.root.name}: {len(dataset)} images. `{command}` on {machines}; {hours:.1f} "
        "hours of training. Last weights; mean and standard deviation over seeds; differences with the 95 % interval "
        "of a paired bootstrap over images. What other seeds would give is not in it; see each seed's difference."
        f"{_missing(study, lines)}{_how_fast(lines)}"
    )
    text = f"{study.about.strip()}\n\n" if study.about else ""
    markdown = f"## {study.title}\n\n{text}{about}\n\n![{study.title}](table.png)\n\n"
    timed = any(line.speed for line in lines)
    if timed:
        markdown += f"![AP and milliseconds]({SPEED_PICTURE})\n\n"
    markdown += table(header, rows, style="markdown") + "\n"
    replace_file(out / "table.md", markdown.encode())
    replace_file(out / "table.csv", _csv(lines, timed=timed).encode())
    drawn = [Row(o.name, o.ap, o.speed.median if o.speed else None, o.name == study.baseline) for o in lines]
    replace_file(out / "table.png", picture_of_ap(study.title, drawn))
    if timed:
        replace_file(out / SPEED_PICTURE, picture_of_speed(study.title, drawn))
    return table(header, rows)


def _csv(lines: Sequence[Line], *, timed: bool) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    names = ("seeds", "ap", "ap50", "ap75", "teacher_ap", "seconds")
    last = ["published", *(["ms"] if timed else [])]
    writer.writerow(["name", *names, "by_seed", "difference", "low", "high", *last])
    for line in lines:
        listed = [" ".join(f"{value:.4g}" for value in getattr(line, name)) for name in (*names, "by_seed")]
        low, high = line.interval or ("", "")
        row = [line.name, *listed, "" if line.difference is None else line.difference, low, high, line.published]
        if timed:
            row.append(f"{line.speed.median:.4g}" if line.speed else "")
        writer.writerow(row)
    return written.getvalue()


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
    has_speed = any(line.speed for line in lines)
    of_baseline = next((line.speed for line in lines if line.name == study.baseline), None)
    header = ["run", "AP", "difference", *(["by seed"] if has_seeds else []), "AP50", "AP75", "seeds", "minutes"]
    header += ["ms (ratio)"] if has_speed else []
    header += ["T-head AP"] if has_teacher else []
    header += ["published"] if has_published else []
    rows = []
    for line in lines:
        change = "baseline" if line.name == study.baseline else _DASH
        if line.difference is not None and line.interval is not None:
            change = f"{line.difference:+.1f} [{line.interval[0]:+.1f}, {line.interval[1]:+.1f}]"
        cells = [line.name, spread(line.ap), change]
        cells += [" ".join(f"{value:+.1f}" for value in line.by_seed) or _DASH] if has_seeds else []
        cells += [spread(line.ap50), spread(line.ap75), str(len(line.seeds))]
        cells += [f"{statistics.mean(line.seconds) / 60:.1f}"]
        cells += [_time(line.speed, of_baseline)] if has_speed else []
        cells += [spread(line.teacher_ap)] if has_teacher else []
        cells += [line.published or _DASH] if has_published else []
        rows.append(cells)
    return header, rows


def _how_fast(lines: Sequence[Line]) -> str:
    """A sentence on how the speeds were measured, if they were."""
    devices = "; ".join(sorted({line.speed.device for line in lines if line.speed}))
    if not devices:
        return ""
    return (
        f" ms: of one image, from its pixels at the model's own size in memory to detections, on {devices}, all models "
        "in turn; in brackets the share of the baseline's time."
    )


def _time(speed: Speed | None, of_baseline: Speed | None) -> str:
    if speed is None:
        return _DASH
    share = speed.over(of_baseline) if of_baseline else None
    return f"{speed.median:.1f}" + ("" if share is None else f" ({share:.2f})")


def spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, as tables show them."""
    if not values:
        return _DASH
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean
