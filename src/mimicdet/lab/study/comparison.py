"""Compares a study's runs: a line of the table each, and how far each two lie apart by the choice of images."""

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from tqdm import tqdm

from mimicdet.lab.study.evidence import Outcome, Speed
from mimicdet.lab.study.judged import Judged
from mimicdet.lab.study.study_file import StudyFile


@dataclass(frozen=True)
class RunDifference:
    """Holds a run's difference from another, over the seeds that both have; in points of AP."""

    seeds: tuple[int, ...]
    by_seed: tuple[float, ...]
    interval: tuple[float, float]  # 95 % of the choices of images

    @property
    def mean(self) -> float:
        return statistics.mean(self.by_seed)


Differences = Mapping[tuple[str, str], RunDifference]
"""The difference of a run from another, by both names."""


@dataclass(frozen=True)
class Line:
    """A line of the table is a run, over its finished seeds; AP is in points."""

    name: str
    outcomes: tuple[Outcome, ...]  # of each seed
    is_baseline: bool
    difference: RunDifference | None = None  # from the baseline
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


def lines_of(study: StudyFile, outcomes: Sequence[Outcome], differences: Differences) -> list[Line]:
    """Returns a line for each run of which at least one seed is finished."""
    lines = []
    for run in study.runs:
        if own := tuple(one for one in outcomes if one.run == run.name):
            difference = differences.get((run.name, study.baseline)) if study.baseline else None
            speed = next((one.speed for one in own if one.speed), None) if study.speed else None
            lines.append(Line(run.name, own, run.name == study.baseline, difference, speed, run.published))
    return lines


def differences_of(outcomes: Sequence[Outcome], *, samples: int) -> Differences:
    """Returns the difference of each run from each other; none where they have no seed in common.

    The outcomes are of the same images; the bootstrap draws ``samples`` choices of them.
    """
    bar = tqdm(outcomes, desc="resampling images", leave=False, disable=None)
    resampled = {(o.run, o.seed): resampled_ap(o.judged, samples=samples) for o in bar}
    ap = {(o.run, o.seed): o.judged.ap() for o in outcomes}
    seeds: dict[str, list[int]] = {}
    for run, seed in ap:
        seeds.setdefault(run, []).append(seed)
    found: dict[tuple[str, str], RunDifference] = {}
    for run, other in itertools.permutations(seeds, 2):
        if shared := [seed for seed in seeds[run] if seed in seeds[other]]:
            low, high = paired_interval(*([resampled[name, seed] for seed in shared] for name in (run, other)))
            by_seed = tuple(100 * (ap[run, seed] - ap[other, seed]) for seed in shared)
            found[run, other] = RunDifference(tuple(shared), by_seed, (100 * low, 100 * high))
    return found


def resampled_ap(judged: Judged, *, samples: int = 1000, seed: int = 0) -> np.ndarray:
    """Returns AP over choices of images drawn with repetition: (samples,); equal ``seed`` draws the same choices."""
    generator, images = np.random.default_rng(seed), judged.images
    drawn = (np.bincount(generator.integers(0, images, images), minlength=images) for _ in range(samples))
    return np.array([judged.ap(times) for times in drawn])


def paired_interval(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], *, level: float = 0.95
) -> tuple[float, float]:
    """Returns the interval of mean AP of ``first`` - mean AP of ``second``, both :func:`resampled_ap` of each seed."""
    differences = np.mean(first, axis=0) - np.mean(second, axis=0)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
