"""How much of a difference between two detectors is the choice of images: a paired bootstrap of COCO's AP."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mimicdet.study.judged import Judged


def paired_interval(
    first: Sequence[Judged], second: Sequence[Judged], *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """The interval of mean AP of ``first`` - mean AP of ``second`` over resampled images, the same for all.

    Args:
        first, second: one of each seed; on the same images.
    """
    generator = np.random.default_rng(seed)
    images = first[0].images
    differences = []
    for _ in range(samples):
        times = np.bincount(generator.integers(0, images, images), minlength=images)
        means = [np.mean([judged.ap(times) for judged in side]) for side in (first, second)]
        differences.append(means[0] - means[1])
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
