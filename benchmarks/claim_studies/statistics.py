"""Interquartile means and bootstrap intervals over seeds, as rliable defines them.

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice". scipy
computes them; the library of that paper would bring a plotting stack along.
"""

from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, trim_mean

_RESAMPLES = 2000


class Estimate(NamedTuple):
    """A statistic with its 95 % percentile bootstrap interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value, resampled: np.ndarray) -> "Estimate":
        """From the statistic of the samples, and of the resampled ones."""
        low, high = np.percentile(resampled, [2.5, 97.5])
        return cls(float(value), float(low), float(high))

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


class Ratio(Estimate):
    """A ratio; low is 0 if it is only an upper bound, high infinite if only a lower bound."""

    @property
    def sign(self) -> str:
        """What the value is: the ratio, ≥ or ≤ if a bound on it, – if not even that."""
        signs = {(False, False): "", (False, True): "≥ ", (True, False): "≤ ", (True, True): "–"}
        return signs[self.low == 0, self.high == np.inf]

    def __str__(self) -> str:
        if self.sign == "–":
            return self.sign
        high = "∞" if np.isinf(self.high) else f"{self.high:.2f}"
        return f"{self.sign}{self.value:.2f} [{self.low:.2f}, {high}]"


def interquartile_mean(samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean of the middle half along an axis."""
    return trim_mean(samples, 0.25, axis=axis)


def over_seeds(samples: np.ndarray, statistic=interquartile_mean) -> Estimate:
    """The statistic of samples [seeds], seeds resampled."""
    samples = np.asarray(samples, dtype=float)
    value = float(statistic(samples))
    if np.ptp(samples) == 0:
        return Estimate(value, value, value)
    settings = {"n_resamples": _RESAMPLES, "method": "percentile", "rng": 0}
    interval = bootstrap((samples,), statistic, **settings).confidence_interval
    return Estimate(value, float(interval.low), float(interval.high))


def ratio_over_seeds(numerator: np.ndarray, denominator: np.ndarray, limit: float) -> Ratio:
    """Ratio of interquartile means of samples [seeds], seeds resampled within each.

    An infinite sample is one that is only known to exceed `limit`, as no other does; it counts as
    `limit`. The quarter that an interquartile mean leaves out hides a few of those; more of them
    make the ratio a bound.
    """

    def ratio(over: np.ndarray, under: np.ndarray) -> np.ndarray:
        least = [interquartile_mean(np.minimum(side, limit)) for side in (over, under)]
        return least[0] / least[1]

    sides = (numerator, denominator)
    random = np.random.default_rng(0)
    draws = [side[random.integers(side.size, size=(_RESAMPLES, side.size))] for side in sides]
    known = Ratio.of(ratio(*sides), ratio(*draws))
    over_unknown, under_unknown = (np.isinf(interquartile_mean(side)) for side in sides)
    low, high = 0.0 if under_unknown else known.low, np.inf if over_unknown else known.high
    return known._replace(low=low, high=high)


def over_tasks(scores: np.ndarray) -> Estimate:
    """Interquartile mean of scores [tasks, seeds] taken together; seeds resampled within tasks."""
    scores = np.asarray(scores, dtype=float)
    num_tasks, num_seeds = scores.shape
    draws = np.random.default_rng(0).integers(num_seeds, size=(_RESAMPLES, num_tasks, num_seeds))
    resampled = np.take_along_axis(scores[None], draws, axis=2)
    means = interquartile_mean(resampled.reshape(_RESAMPLES, -1))
    return Estimate.of(interquartile_mean(scores.ravel()), means)


def probability_of_improvement(first: np.ndarray, second: np.ndarray) -> Estimate:
    """P(X > Y) + ½ P(X = Y), averaged over tasks; both [tasks, seeds], seeds resampled."""

    def probability(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        difference = x[..., :, None] - y[..., None, :]
        return np.mean((difference > 0) + 0.5 * (difference == 0), axis=(-1, -2, -3))

    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    random = np.random.default_rng(0)
    draws = random.integers(first.shape[1], size=(2, _RESAMPLES, *first.shape))
    resampled = [
        np.take_along_axis(side[None], draw, axis=2)
        for side, draw in zip((first, second), draws, strict=True)
    ]
    return Estimate.of(probability(first, second), probability(*resampled))
