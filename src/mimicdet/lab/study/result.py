"""What a study shows: its table, as Markdown, CSV and picture, and how far each two runs lie apart."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mimicdet.files import replace_file
from mimicdet.lab.study.diagnostics import diagnostics_csv
from mimicdet.lab.study.difference import Difference
from mimicdet.lab.study.outcome import Outcome
from mimicdet.lab.study.pictures import Row, picture_of_ap, picture_of_speed
from mimicdet.lab.study.plan import Study
from mimicdet.lab.study.speed import Speed
from mimicdet.report.table import table

_DASH = "-"
SPEED_PICTURE = "speed.png"
DIFFERENCES = "differences.csv"
DIAGNOSTICS = "diagnostics.csv"
HOW_TO_READ = (
    "AP is that of the last weights, as mean and standard deviation over the seeds. Differences are over the seeds "
    "that a row has in common with the baseline, with the 95 % interval of a paired bootstrap over images; what other "
    "seeds would give is not in it, so see each seed's difference. Minutes are of one training."
)
"""Stands above every table."""


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
    difference: Difference | None  # from the baseline
    machines: tuple[str, ...]  # that the seeds were measured on
    published: str
    speed: Speed | None


def lines_of(
    study: Study,
    outcomes: Sequence[Outcome],
    differences: Mapping[tuple[str, str], Difference],
    speeds: Mapping[str, Speed] | None = None,
) -> list[Line]:
    """A row for each run of which at least one seed is finished.

    Args:
        differences: of each two runs.
        speeds: of the runs' models, by run, where they were measured.
    """
    lines = []
    for run in study.runs:
        own = [o for o in outcomes if o.job.run == run.name]
        if not own:
            continue
        numbers = {name: tuple(100 * o.metrics[name] for o in own) for name in ("AP", "AP50", "AP75")}
        lines.append(
            Line(
                name=run.name, seeds=tuple(o.job.seed for o in own), ap=numbers["AP"], ap50=numbers["AP50"],
                ap75=numbers["AP75"], teacher_ap=tuple(100 * o.teacher_ap for o in own if o.teacher_ap is not None),
                seconds=tuple(o.seconds for o in own),
                difference=differences.get((run.name, study.baseline)) if study.baseline else None,
                machines=tuple(o.machine for o in own), published=run.published, speed=(speeds or {}).get(run.name),
            )
        )  # fmt: skip
    return lines


def write_results(
    study: Study,
    lines: Sequence[Line],
    differences: Mapping[tuple[str, str], Difference],
    about: str,
    out: Path,
) -> str:
    """Writes table.md, table.csv, table.png, differences.csv and, of a study with speeds, speed.png into ``out``.

    Args:
        about: what was measured and the command that makes the table, shown above it.

    Returns:
        The table as text for a terminal.
    """
    header, rows = _cells(study, lines)
    machines = "; ".join(sorted({machine for line in lines for machine in line.machines}))
    hours = sum(sum(line.seconds) for line in lines) / 3600
    about += f" on {machines}; {hours:.1f} hours of training.{_missing(study, lines)}{_how_fast(lines)}"
    text = f"{study.about.strip()}\n\n" if study.about else ""
    markdown = f"## {study.title}\n\n{text}{about}\n\n{HOW_TO_READ}\n\n![{study.title}](table.png)\n\n"
    timed = any(line.speed for line in lines)
    if timed:
        markdown += f"![AP and milliseconds]({SPEED_PICTURE})\n\n"
    markdown += table(header, rows, style="markdown") + "\n"
    replace_file(out / "table.md", markdown.encode())
    replace_file(out / "table.csv", _csv(lines, timed=timed).encode())
    replace_file(out / DIFFERENCES, _csv_of_differences(differences).encode())
    drawn = [
        Row(o.name, o.ap, o.speed.median if o.speed else None, o.name == study.baseline, o.difference) for o in lines
    ]
    replace_file(out / "table.png", picture_of_ap(study.title, drawn))
    if timed:
        replace_file(out / SPEED_PICTURE, picture_of_speed(study.title, drawn))
    return table(header, rows)


def write_diagnostics(outcomes: Sequence[Outcome], out: Path) -> None:
    """Writes diagnostics.csv into ``out``: how each run's last epoch went, where any has left that."""
    written = diagnostics_csv({(o.job.run, o.job.seed): o.diagnostics for o in outcomes})
    if written:
        replace_file(out / DIAGNOSTICS, written.encode())
    else:
        (out / DIAGNOSTICS).unlink(missing_ok=True)


def _csv(lines: Sequence[Line], *, timed: bool) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    names = ("seeds", "ap", "ap50", "ap75", "teacher_ap", "seconds")
    last = ["published", *(["ms"] if timed else [])]
    writer.writerow(["name", *names, "by_seed", "difference", "low", "high", *last])
    for line in lines:
        row = [line.name, *(_listed(getattr(line, name)) for name in names)]
        row += _cells_of_difference(line.difference) if line.difference else [""] * 4
        row.append(line.published)
        if timed:
            row.append(f"{line.speed.median:.4g}" if line.speed else "")
        writer.writerow(row)
    return written.getvalue()


def _csv_of_differences(differences: Mapping[tuple[str, str], Difference]) -> str:
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["run", "against", "seeds", "by_seed", "difference", "low", "high"])
    for (run, against), difference in differences.items():
        writer.writerow([run, against, _listed(difference.seeds), *_cells_of_difference(difference)])
    return written.getvalue()


def _cells_of_difference(difference: Difference) -> list[str]:
    numbers = (difference.mean, *difference.interval)
    return [_listed(difference.by_seed), *(f"{number:.4g}" for number in numbers)]


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


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
    has_seeds = any(line.difference and len(line.difference.seeds) > 1 for line in lines)
    has_speed = any(line.speed for line in lines)
    of_baseline = next((line.speed for line in lines if line.name == study.baseline), None)
    header = ["run", "AP", "difference", *(["by seed"] if has_seeds else []), "AP50", "AP75", "seeds", "minutes"]
    header += ["ms (ratio)"] if has_speed else []
    header += ["T-head AP (kept)"] if has_teacher else []
    header += ["published"] if has_published else []
    rows = []
    for line in lines:
        change, by_seed = "baseline" if line.name == study.baseline else _DASH, _DASH
        if (difference := line.difference) is not None:
            low, high = difference.interval
            change = f"{difference.mean:+.1f} [{low:+.1f}, {high:+.1f}]"
            by_seed = " ".join(f"{value:+.1f}" for value in difference.by_seed)
        cells = [line.name, _spread(line.ap), change]
        cells += [by_seed] if has_seeds else []
        cells += [_spread(line.ap50), _spread(line.ap75), _ranges(line.seeds)]
        cells += [f"{statistics.mean(line.seconds) / 60:.1f}"]
        cells += [_time(line.speed, of_baseline)] if has_speed else []
        cells += [_of_teacher(line)] if has_teacher else []
        cells += [line.published or _DASH] if has_published else []
        rows.append(cells)
    return header, rows


def _ranges(seeds: Sequence[int]) -> str:
    """Such as ``0-2, 5``."""
    ranges: list[list[int]] = []
    for seed in sorted(seeds):
        if ranges and seed == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], seed]
        else:
            ranges.append([seed])
    return ", ".join("-".join(map(str, one)) for one in ranges)


def _how_fast(lines: Sequence[Line]) -> str:
    """A sentence on how the speeds were measured, if they were."""
    devices = "; ".join(sorted({line.speed.device for line in lines if line.speed}))
    if not devices:
        return ""
    return (
        f" ms: of one image, from its pixels at the model's own size in memory to detections, on {devices}, all models "
        "in turn; in brackets the share of the baseline's time, image by image, so that a slower moment of the machine "
        "is in both; medians all."
    )


def _time(speed: Speed | None, of_baseline: Speed | None) -> str:
    if speed is None:
        return _DASH
    share = speed.over(of_baseline) if of_baseline else None
    return f"{speed.median:.1f}" + ("" if share is None else f" ({share:.2f})")


def _of_teacher(line: Line) -> str:
    """The T-head's AP, and which share of it the S-head has."""
    if not line.teacher_ap:
        return _DASH
    kept = 100 * statistics.mean(line.ap) / statistics.mean(line.teacher_ap)
    return f"{_spread(line.teacher_ap)} ({kept:.0f} %)"


def _spread(values: Sequence[float]) -> str:
    """Mean and standard deviation, as tables show them."""
    if not values:
        return _DASH
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean
