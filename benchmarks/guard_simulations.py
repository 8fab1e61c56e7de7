"""Simulated trainings for `guard.py`: candidates at the boundary of the null hypothesis."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trpo_jax.experiments.guard.deciding import BLOCK, REPLACED, Knowledge, Pairs, Test, examine
from trpo_jax.experiments.guard.settings import Guard
from trpo_jax.experiments.statistics import Moments

Draw = Callable[[np.random.Generator, int], tuple[np.ndarray, np.ndarray]]
"""(random numbers, n) -> returns [n] of two policies with the same mean return."""


class Returns(NamedTuple):
    """A distribution of returns."""

    name: str
    draw: Draw
    margin: float
    """The guard's margin: about half a standard deviation of one return."""
    shifted: bool = True
    """Whether a worse policy has all returns lower; else `draw` gives one worse by the margin."""


def independent(one: Callable[[np.random.Generator, int], np.ndarray]) -> Draw:
    return lambda rng, n: (one(rng, n), one(rng, n))


def paired_normal(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A correlation of 0.9, as between policies that play from the same initial states."""
    common = rng.normal(size=n)
    own = rng.normal(size=(2, n))
    return tuple(np.sqrt(0.9) * common + np.sqrt(0.1) * own)


def collapsing(share: float, depth: float = 490.0, top: float = 500.0) -> Draw:
    """A service that always reaches the limit, and a candidate that sometimes falls at once."""

    def draw(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        return top - depth * (rng.random(n) < share), np.full(n, top)

    return draw


def capped(rng: np.random.Generator, n: int) -> np.ndarray:
    """Episode lengths with a limit: most reach it, the others end anywhere before."""
    return np.minimum(500.0, 100 * rng.exponential(size=n) + 400 * (rng.random(n) < 0.8))


def success(chance: float) -> Draw:
    return independent(lambda rng, n: 1.0 * (rng.random(n) < chance))


DISTRIBUTIONS = (
    Returns("normal", independent(lambda rng, n: rng.normal(size=n)), 0.5),
    Returns("normal, paired: correlation 0.9", paired_normal, 0.25),
    Returns("exponential (skewness 2)", independent(lambda rng, n: rng.exponential(size=n)), 0.5),
    Returns("minus exponential", independent(lambda rng, n: -rng.exponential(size=n)), 0.5),
    Returns("lognormal (skewness 6)", independent(lambda rng, n: rng.lognormal(size=n)), 1.0),
    Returns("minus lognormal", independent(lambda rng, n: -rng.lognormal(size=n)), 1.0),
    Returns("Student t, 3 degrees", independent(lambda rng, n: rng.standard_t(3, n)), 1.0),
    Returns("success with probability 0.1", success(0.1), 0.1),
    Returns("success with probability 0.9", success(0.9), 0.1),
    Returns("episode length with a limit", independent(capped), 50.0),
    Returns("500, or 10 in 5 % of episodes", collapsing(0.05), 24.5, False),
    Returns("500, or 10 in 2 % of episodes", collapsing(0.02), 9.8, False),
    Returns("0, or -490 in 2 % of episodes", collapsing(0.02, top=0.0), 9.8, False),
)


def training(
    rng: np.random.Generator,
    guard: Guard,
    returns: Returns,
    *,
    candidates: int,
    pairs: int,
    worse_by: float,
    remembers: bool = True,
) -> tuple[Knowledge, list[Test], list[float]]:
    """One training; every candidate has `worse_by` less mean return than the policy in service.

    Each test may take so many pairs. If the guard does not remember, it compares with the policy in
    service alone, and not with the best lower bound ever in service.

    Returns what the guard knows at the end, its tests, and the mean return of the policy in
    service after each of them, relative to the first one.
    """
    known, service, tests, means = Knowledge(), 0.0, [], []
    for number in range(1, candidates + 1):
        shift = worse_by if returns.shifted else 0.0

        if not remembers:
            known = known._replace(reference=-np.inf, returns=Moments())

        def play(block: int, service=service, shift=shift) -> Pairs:
            ours, theirs = returns.draw(rng, BLOCK)
            return Pairs(ours + service - shift, theirs + service, 2 * BLOCK)

        known, test = examine(
            guard,
            known,
            play,
            update=number,
            training_steps=known.steps + 2 * pairs,
            max_steps=1,
            trained_return=1e6 * number,  # so that no test is left out for want of a prospect
        )
        service -= worse_by * (test.action == REPLACED)
        tests.append(test)
        means.append(service)
    return known, tests, means
