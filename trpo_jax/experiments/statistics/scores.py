"""Aggregate scores of a few runs on several tasks: scores are [runs, tasks].

The formulas are those of rliable: Agarwal, Schwarzer, Castro, Courville & Bellemare 2021, "Deep
Reinforcement Learning at the Edge of the Statistical Precipice".
"""

from collections.abc import Callable
from typing import Any

import numpy as np

_RESAMPLES = 2000


def interquartile_mean(scores: np.ndarray) -> float:
    """Mean of the middle half of all runs × tasks; ⌊n/4⌋ scores are left out at each end."""
    from scipy.stats import trim_mean

    return float(trim_mean(scores, 0.25, axis=None))


def probability_of_improvement(scores: np.ndarray, other: np.ndarray) -> float:
    """P(X > Y) + ½ P(X = Y) for a run of each on the same task, averaged over the tasks.

    X is a run of `scores` [m, tasks] and Y one of `other` [n, tasks]. It is Mann–Whitney's U / mn.
    """
    difference = scores[:, None, :] - other[None, :, :]
    return float(np.mean(np.where(difference == 0, 0.5, difference > 0)))


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Fraction of runs × tasks whose score exceeds each threshold, [thresholds]."""
    return np.mean(scores.reshape(-1, 1) > thresholds, axis=0)


def stratified_interval(
    statistic: Callable[..., Any], *scores: np.ndarray, confidence: float = 0.95
) -> tuple[Any, Any]:
    """Percentile bootstrap interval of statistic(*scores), element by element.

    Runs are drawn anew for every task on its own, so that each task keeps its number of runs. With
    one run per task the interval is a point and says nothing.
    """
    rng = np.random.default_rng(0)
    drawn = [statistic(*(_resampled(rng, each) for each in scores)) for _ in range(_RESAMPLES)]
    outside = (1 - confidence) / 2
    low, high = np.quantile(drawn, (outside, 1 - outside), axis=0)
    return low, high


def _resampled(rng: np.random.Generator, scores: np.ndarray) -> np.ndarray:
    runs = rng.integers(0, scores.shape[0], scores.shape)
    return np.take_along_axis(scores, runs, axis=0)
