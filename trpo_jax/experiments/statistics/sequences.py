"""Confidence sequences: bounds of a mean that hold at all sample sizes at once."""

import math
from typing import Any, NamedTuple

import numpy as np

_TUNED_FOR = 128
"""Number of samples at which the sequences are narrowest; they are valid at every number."""


class Moments(NamedTuple):
    """Running mean and spread of samples."""

    number: int = 0
    """Number of samples."""
    mean: float = 0.0
    """Their mean."""
    squares: float = 0.0
    """Sum of their squared deviations from it."""

    def add(self, samples: Any) -> "Moments":
        """With more samples [m]. Chan, Golub & LeVeque 1983."""
        more = np.asarray(samples, np.float64)
        if more.size == 0:
            return self
        number, gap = self.number + more.size, float(more.mean()) - self.mean
        squares = float(np.sum((more - more.mean()) ** 2))
        return Moments(
            number,
            self.mean + gap * more.size / number,
            self.squares + squares + gap**2 * self.number * more.size / number,
        )

    @property
    def variance(self) -> float:
        """Sample variance; ∞ for fewer than two samples."""
        return self.squares / (self.number - 1) if self.number > 1 else math.inf


def spent(alpha: float, index: int) -> float:
    """The part α_k = 6α/(π²k²) of an error budget for hypothesis k = 1, 2, …; Σ α_k = α."""
    return 6.0 * alpha / (math.pi * index) ** 2


def radius(moments: Moments, level: float, reach: float = 0.0) -> float:
    """Width of a one-sided confidence sequence for a mean, at error probability `level`.

        r_n² = (σ̂ z_n)² / n + (reach · z_n² / 2n)²
        z_n² = 2 (1 + 1/(nρ²)) · log(1 + √(nρ² + 1) / (2 level))

    With `reach` = 0, mean ± r_n is an asymptotic confidence sequence: the error probability over
    all n ≥ m together tends to `level` as the first look m grows, for any distribution with a
    little more than two moments. Robbins 1970; Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024,
    "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics
    52(6), theorem 2.2 and its one-sided form.

    The second term is for what n samples have not shown yet: an event of probability p that moves a
    sample by `reach` stays unseen with probability (1 − p)ⁿ ≤ e^(−np), and z_n²/2 > log(1/level).
    It is of order 1/n, so it changes nothing in the limit, and a sample variance of zero no longer
    proves anything. It is Bernstein's correction with a factor of 1 for 1/3, because σ̂ is unknown
    too. ∞ for fewer than two samples.
    """
    n = moments.number
    if n < 2:
        return math.inf
    errors = _boundary(n, level)
    return math.hypot(math.sqrt(moments.variance / n) * errors, reach * errors**2 / (2 * n))


def lower_bound(moments: Moments, level: float, worst: float = math.inf) -> float:
    """A lower bound of the mean that holds at all sample sizes with probability 1 − `level`.

    `worst` is the worst sample that may have gone unseen; without it, only what was seen counts.
    """
    return moments.mean - radius(moments, level, max(moments.mean - worst, 0.0))


def upper_bound(moments: Moments, level: float, best: float = -math.inf) -> float:
    """An upper bound, alike; `best` is the best sample that may have gone unseen."""
    return moments.mean + radius(moments, level, max(best - moments.mean, 0.0))


def _boundary(n: int, level: float) -> float:
    """z_n: how many standard errors; narrowest near n = _TUNED_FOR."""
    twice = -2 * math.log(level)
    scaled = n / _TUNED_FOR * (twice + math.log(twice + 1))  # n ρ²
    wide = math.log1p(math.sqrt(scaled + 1) / (2 * level))
    return math.sqrt(2 * (1 + 1 / scaled) * wide)
