"""Makes the lines of a study's table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mimicdet.lab.study.difference import Difference
from mimicdet.lab.study.evidence import Outcome, Speed
from mimicdet.lab.study.study_file import Study


@dataclass(frozen=True)
class Line:
    """A line of the table is a run, over its finished seeds; AP is in points."""

    name: str
    outcomes: tuple[Outcome, ...]  # of each seed
    is_baseline: bool
    difference: Difference | None = None  # from the baseline
    speed: Speed | None = None
    published: str = ""

    @property
    def seeds(self) -> list[int]:
        return [one.seed for one in self.outcomes]

    @property
    def ap(self) -> list[float]:
        return self.metric("AP")

    @property
    def teacher_ap(self) -> list[float]:
        return [100 * one.teacher_ap for one in self.outcomes if one.teacher_ap is not None]

    @property
    def seconds(self) -> list[float]:
        return [one.seconds for one in self.outcomes]

    def metric(self, name: Literal["AP", "AP50", "AP75"]) -> list[float]:
        return [100 * one.metrics[name] for one in self.outcomes]


def lines_of(
    study: Study, outcomes: Sequence[Outcome], differences: Mapping[tuple[str, str], Difference]
) -> list[Line]:
    """Returns a line for each run of which at least one seed is finished.

    Args:
        differences: of each two runs.
    """
    lines = []
    for run in study.runs:
        own = tuple(one for one in outcomes if one.run == run.name)
        if own:
            difference = differences.get((run.name, study.baseline)) if study.baseline else None
            speed = next((one.speed for one in own if one.speed), None) if study.speed else None
            lines.append(Line(run.name, own, run.name == study.baseline, difference, speed, run.published))
    return lines
