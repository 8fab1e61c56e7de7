"""Confidence sequences against quadrature, exact distributions and simulation."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from trpo_jax.experiments.statistics import (
    Moments,
    bootstrap_interval,
    lower_bound,
    radius,
    spent,
    upper_bound,
)


def test_moments_in_pieces_are_those_of_the_whole():
    samples = 1e6 + np.random.default_rng(0).lognormal(size=100)
    moments = Moments()
    for piece in np.split(samples, [1, 2, 30, 30]):
        moments = moments.add(piece)
    assert moments.number == 100
    assert moments.mean == pytest.approx(np.mean(samples), rel=1e-14)
    assert moments.variance == pytest.approx(np.var(samples, ddof=1), rel=1e-8)


def test_the_error_budget_is_spent_in_the_limit_and_not_before():
    parts = [spent(0.05, k) for k in range(1, 20_001)]
    assert parts[0] == pytest.approx(0.05 * 6 / math.pi**2)
    assert 0.05 * (1 - 1e-4) < sum(parts) < 0.05


@pytest.mark.parametrize("level", [0.2, 0.025, 1e-4])
@pytest.mark.parametrize("n", [2, 32, 128, 5000])
def test_the_radius_is_where_robbins_mixture_is_improbable(n, level):
    """∫ 2 φ(λ/ρ)/ρ exp(λS − λ²n/2) dλ over λ > 0 is a martingale for standard normal sums S: it
    exceeds 1/level anywhere with probability at most level."""
    alternating = Moments(n, 0.0, n - 1.0)  # variance 1
    total = n * radius(alternating, level)
    rho = math.sqrt((-2 * math.log(level) + math.log(1 - 2 * math.log(level))) / 128)

    def integrand(rate):
        return 2 * stats.norm.pdf(rate, 0, rho) * math.exp(rate * total - rate**2 * n / 2)

    peak = total / (n + 1 / rho**2)
    spread = 1 / math.sqrt(n + 1 / rho**2)
    edges = [max(peak - 12 * spread, 0), peak + 12 * spread]
    mixture = integrate.quad(integrand, *edges, epsabs=0, epsrel=1e-10)[0]
    assert 1 <= mixture * level <= 1 + 2 * level, "exact, but for Φ(x) ≥ 1 − exp(−x²/2)"


def test_the_bounds_hold_at_all_times_together_and_are_not_vacuous():
    rng, level, paths = np.random.default_rng(1), 0.1, 1500
    misses = {"lower": 0, "upper": 0}
    for _ in range(paths):
        blocks = rng.normal(size=(60, 32))
        moments, crossed = Moments(), {"lower": False, "upper": False}
        for block in blocks:
            moments = moments.add(block)
            crossed["lower"] |= lower_bound(moments, level) > 0
            crossed["upper"] |= upper_bound(moments, level) < 0
        for side, value in crossed.items():
            misses[side] += value
    for count in misses.values():
        assert stats.binomtest(count, paths, level, alternative="greater").pvalue > 0.01
        assert count > 0.02 * paths


def test_a_spread_of_zero_proves_no_more_than_the_rule_of_three():
    """After n samples without a fall of `reach`, its probability may still be log(1/level)/n."""
    for n, level in ((32, 0.05), (500, 0.01)):
        same = Moments().add(np.full(n, 500.0))
        exact = 1 - level ** (1 / n)  # (1 − p)ⁿ = level
        assert 500 - lower_bound(same, level, worst=10.0) >= 490 * exact
        assert lower_bound(same, level) == 500, "if nothing is known of what may come"
        assert upper_bound(same, level, best=500.0) == 500


@pytest.mark.parametrize("falls", [0, 1, 3, 8])
def test_rare_falls_are_bounded_as_poisson_does(falls):
    """One look at n samples of which some fell by 1: at most a little narrower than exact."""
    n, level = 400, 0.015
    samples = np.r_[np.zeros(n - falls), -np.ones(falls)]
    exact = stats.beta.ppf(1 - level, falls + 1, n - falls)  # Clopper & Pearson 1934
    assert -lower_bound(Moments().add(samples), level, worst=-1.0) >= exact
    assert -lower_bound(Moments().add(samples), level, worst=-1.0) < 2.2 * exact


def test_too_few_samples_bound_nothing():
    assert radius(Moments(), 0.05) == math.inf
    assert lower_bound(Moments().add([3.0]), 0.05) == -math.inf


def test_the_bootstrap_at_any_confidence_is_near_the_t_interval():
    samples = np.random.default_rng(3).normal(1, 2, size=400)
    for confidence in (0.8, 0.95, 0.999):
        exact = stats.t.interval(confidence, 399, samples.mean(), stats.sem(samples))
        assert bootstrap_interval(samples, confidence) == pytest.approx(exact, abs=0.06)
