"""How far each two runs of a study lie apart."""

from __future__ import annotations

import itertools
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from mimicdet.lab.study.bootstrap import paired_interval, resampled_ap
from mimicdet.lab.study.outcome import Outcome


@dataclass(frozen=True)
class Difference:
    """Of a run from another, over the seeds that both have; in points of AP."""

    seeds: tuple[int, ...]
    by_seed: tuple[float, ...]
    interval: tuple[float, float]  # 95 % of the choices of images

    @property
    def mean(self) -> float:
        return statistics.mean(self.by_seed)


def differences_of(outcomes: Sequence[Outcome], *, samples: int) -> dict[tuple[str, str], Difference]:
    """Of each run from each other, by both names; none where they have no seed in common.

    Args:
        outcomes: of the same images all.
        samples: of the bootstrap.
    """
    bar = tqdm(outcomes, desc="resampling images", leave=False, disable=not sys.stderr.isatty())
    resampled = {(o.job.run, o.job.seed): resampled_ap(o.judged, samples=samples) for o in bar}
    ap = {(o.job.run, o.job.seed): o.judged.ap() for o in outcomes}
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
