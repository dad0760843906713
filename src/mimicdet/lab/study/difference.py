"""Says how far each two runs of a study lie apart, and how much of it is the choice of images."""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from mimicdet.lab.study.evidence import Outcome
from mimicdet.lab.study.judged import Judged


@dataclass(frozen=True)
class Difference:
    """Holds a run's difference from another, over the seeds that both have; in points of AP."""

    seeds: tuple[int, ...]
    by_seed: tuple[float, ...]
    interval: tuple[float, float]  # 95 % of the choices of images

    @property
    def mean(self) -> float:
        return statistics.mean(self.by_seed)


def differences_of(outcomes: Sequence[Outcome], *, samples: int) -> dict[tuple[str, str], Difference]:
    """Returns the difference of each run from each other, by both names; none where they have no seed in common.

    Args:
        outcomes: all of the same images.
        samples: of the bootstrap.
    """
    bar = tqdm(outcomes, desc="resampling images", leave=False, disable=not sys.stderr.isatty())
    resampled = {(o.run, o.seed): resampled_ap(o.judged, samples=samples) for o in bar}
    ap = {(o.run, o.seed): o.judged.ap() for o in outcomes}
    seeds: dict[str, list[int]] = {}
    for run, seed in ap:
        seeds.setdefault(run, []).append(seed)
    found: dict[tuple[str, str], Difference] = {}
    for run, other in itertools.permutations(seeds, 2):
        shared = [seed for seed in seeds[run] if seed in seeds[other]]
        if not shared:
            continue
        low, high = paired_interval(*([resampled[name, seed] for seed in shared] for name in (run, other)))
        by_seed = tuple(100 * (ap[run, seed] - ap[other, seed]) for seed in shared)
        found[run, other] = Difference(tuple(shared), by_seed, (100 * low, 100 * high))
    return found


def resampled_ap(judged: Judged, *, samples: int = 1000, seed: int = 0) -> np.ndarray:
    """Returns AP over choices of images drawn with repetition: (samples,); equal ``seed`` draws the same choices."""
    generator = np.random.default_rng(seed)
    images = judged.images
    drawn = (np.bincount(generator.integers(0, images, images), minlength=images) for _ in range(samples))
    return np.array([judged.ap(times) for times in drawn])


def paired_interval(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], *, level: float = 0.95
) -> tuple[float, float]:
    """Returns the interval of mean AP of ``first`` - mean AP of ``second`` over choices of images, the same for all.

    Args:
        first, second: :func:`resampled_ap` of each seed; of the same images.
    """
    differences = np.mean(first, axis=0) - np.mean(second, axis=0)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
