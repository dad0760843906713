"""The pictures of a study's table."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from mimicdet.lab.study.comparison import Line, RunDifference
from mimicdet.lab.study.evidence import Speed
from mimicdet.lab.study.report import _looks, figure_of_ap, figure_of_speed, png
from tests.lab.study.test_reuse import job, outcome_of


def line(
    name: str,
    ap: tuple[float, ...],
    *,
    milliseconds: float | None = None,
    is_baseline: bool = False,
    difference: RunDifference | None = None,
) -> Line:
    """A line of a table, of as many seeds as values of AP."""
    metrics = [{"AP": value / 100, "AP50": 0.5, "AP75": 0.2} for value in ap]
    outcomes = tuple(outcome_of(job(Path("out"), name, seed=i), metrics=one) for i, one in enumerate(metrics))
    speed = Speed(milliseconds=[milliseconds], runs=[name], device="this") if milliseconds else None
    return Line(name, outcomes, is_baseline, difference, speed)


def test_no_two_runs_look_alike() -> None:
    looks = list(itertools.islice(_looks(), 56))
    assert len(set(looks)) == 56
    assert ("#999999", "o") not in looks, "the baseline's"


def test_runs_without_times_are_left_out() -> None:
    """And a study of more runs than there are colours is drawn."""
    rows = [line(f"run {i}", (10.0 + i, 11.0 + i), milliseconds=20.0 * i, is_baseline=i == 1) for i in range(12)]
    for content in (png(figure_of_ap("Many", rows)), png(figure_of_speed("Many", rows))):
        with Image.open(io.BytesIO(content)) as picture:
            assert picture.width > 900
    assert png(figure_of_speed("Many", rows)) == png(figure_of_speed("Many", rows[1:]))


def test_differences_from_the_baseline_are_drawn_beside() -> None:
    """And the interval is in the picture: a run of one seed has no other sign of how little it may be worth."""

    def drawn(interval: tuple[float, float] | None) -> bytes:
        difference = RunDifference(seeds=(0,), by_seed=(1.0,), interval=interval) if interval else None
        rows = [line("before", (10.0,), is_baseline=True), line("after", (11.0,), difference=difference)]
        return png(figure_of_ap("Two", rows))

    widths = [Image.open(io.BytesIO(drawn(interval))).width for interval in (None, (-0.5, 2.5))]
    assert widths[0] < widths[1]
    assert drawn((-0.5, 2.5)) != drawn((0.5, 1.5))


def test_long_names_leave_the_axes_their_room() -> None:
    """No word runs out of the picture, or into another."""
    name = "64 channels, 5x5 on P3, no suppression, the S-head learns four times as fast, mimicking"
    difference = RunDifference(seeds=(0,), by_seed=(1.0,), interval=(-0.5, 2.5))
    others = [line(f"{name} {i}", (11.0,), difference=difference) for i in range(9)]
    rows = [line(name, (10.0,), is_baseline=True), *others]
    figure = figure_of_ap("Long names", rows)
    FigureCanvasAgg(figure).draw()
    labels = [axes.xaxis.label.get_window_extent() for axes in figure.axes]
    assert all(figure.bbox.x0 <= label.x0 and label.x1 <= figure.bbox.x1 for label in labels)
    assert labels[0].x1 < labels[1].x0
    assert all(axes.bbox.width > 0.2 * figure.bbox.width for axes in figure.axes)
