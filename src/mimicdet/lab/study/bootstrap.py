"""How much of a difference between two detectors is the choice of images: a paired bootstrap of COCO's AP."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mimicdet.lab.study.judged import Judged


def resampled_ap(judged: Judged, *, samples: int = 1000, seed: int = 0) -> np.ndarray:
    """AP over so many choices of images, drawn with repetition: (samples,); of equal ``seed`` the same choices."""
    generator = np.random.default_rng(seed)
    images = judged.images
    drawn = (np.bincount(generator.integers(0, images, images), minlength=images) for _ in range(samples))
    return np.array([judged.ap(times) for times in drawn])


def paired_interval(
    first: Sequence[np.ndarray], second: Sequence[np.ndarray], *, level: float = 0.95
) -> tuple[float, float]:
    """The interval of mean AP of ``first`` - mean AP of ``second`` over choices of images, the same for all.

    Args:
        first, second: :func:`resampled_ap` of each seed; of the same images.
    """
    differences = np.mean(first, axis=0) - np.mean(second, axis=0)
    low, high = np.quantile(differences, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
