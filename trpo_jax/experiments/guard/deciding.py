"""What a test of a candidate concludes: pure functions of returns and of what is known so far."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from trpo_jax.experiments.guard.settings import Guard
from trpo_jax.experiments.statistics import Moments, lower_bound, radius, spent, upper_bound

BLOCK = 16
"""Pairs of episodes that are played between two looks."""
FIRST_LOOK = 32
"""Pairs before the first look: fewer say too little about the spread."""

BETTER, NOT_WORSE, WORSE = "better", "not worse", "worse"
UNDECIDED, NOT_TESTED = "undecided", "not tested"
REPLACED, ROLLED_BACK, KEPT = "replaced", "rolled back", "kept"


class Knowledge(NamedTuple):
    """All that a guard knows, apart from the parameters of the policy in service."""

    in_service: int = 0
    """The update whose policy is in service."""
    returns: Moments = Moments()
    """Returns of the policy in service in all tests that it took part in."""
    level: float = 0.0
    """Error probability of the lower bound that they give; 0: that of the first test."""
    reference: float = -math.inf
    """The best lower bound of any policy that was ever in service."""
    num_tests: int = 0
    """Tests so far; test k has the part α_k of the error budget."""
    steps: int = 0
    """Environment steps of all tests so far."""
    worst: float = 0.0
    """The worst return so far, in tests or as a mean of training; 0 always counts as possible."""
    best: float = 0.0
    """The best one, alike."""
    expected: float = math.inf
    """Difference of the last candidate from the policy in service; ∞ if none is known."""
    trained_return: float = math.nan
    """Mean return in training at that time."""

    @property
    def lower(self) -> float:
        """Lower bound of the mean return of the policy in service."""
        return lower_bound(self.returns, self.level, self.worst) if self.level else -math.inf


class Pairs(NamedTuple):
    """Episodes of two policies, from the same initial states and with the same keys."""

    candidate: np.ndarray
    """Returns [n] of the candidate."""
    in_service: np.ndarray
    """Returns [n] of the policy in service."""
    steps: int
    """Environment steps that they took."""


class Test(NamedTuple):
    """The record of a test."""

    verdict: str
    """better, not worse, worse, undecided; or not tested, if the share of steps did not suffice."""
    num_pairs: int = 0
    """Pairs of episodes that were played."""
    difference: float = math.nan
    """Mean return of the candidate minus that of the policy in service."""
    low: float = math.nan
    """Lower bound of the difference."""
    high: float = math.nan
    """Upper bound of it."""
    candidate: float = math.nan
    """Mean return of the candidate."""
    candidate_low: float = math.nan
    """Lower bound of its mean return."""
    candidate_high: float = math.nan
    """Upper bound of it."""
    smallest_difference: float = math.nan
    """The smallest difference that so few episodes could have shown: with one below it, the lower
    bound would have been below zero."""

    @property
    def action(self) -> str:
        """What becomes of it: replaced, rolled back or kept."""
        shown = {BETTER: REPLACED, NOT_WORSE: REPLACED, WORSE: ROLLED_BACK}
        return shown.get(self.verdict, KEPT)


class _Sample(NamedTuple):
    """What the pairs of one test have given so far."""

    difference: Moments = Moments()
    candidate: Moments = Moments()
    in_service: Moments = Moments()
    broken: tuple[bool, bool] = (False, False)
    """Whether a return was not finite: the candidate's, that of the policy in service."""


def affordable(guard: Guard, known: Knowledge, training_steps: int, max_steps: int) -> int:
    """Pairs that the share of steps pays for, should every episode last `max_steps`."""
    return max(0, int((guard.share * training_steps - known.steps) // (2 * max_steps)))


def narrowest(guard: Guard, known: Knowledge, pairs: int) -> float:
    """The width of the next test after so many pairs, if all differences were equal."""
    level = spent(1 - guard.confidence, known.num_tests + 1) / 2
    return radius(Moments(pairs), level, known.best - known.worst)


def is_worthwhile(guard: Guard, known: Knowledge, pairs: int, trained_return: float) -> bool:
    """Whether so many pairs could show anything.

    They can show that a candidate is not worse if the test can become narrower than the margin; or
    a difference like that of the last candidate, and by how much the mean return in training has
    changed since. Only when to test depends on this, not what a test shows.
    """
    change = abs(trained_return - known.trained_return)
    difference = abs(known.expected) + (change if math.isfinite(change) else 0.0)
    largest = max(guard.margin, difference)
    return pairs >= FIRST_LOOK and narrowest(guard, known, pairs) <= largest


def examine(
    guard: Guard,
    known: Knowledge,
    play: Callable[[int], Pairs],
    *,
    update: int,
    training_steps: int,
    max_steps: int,
    trained_return: float = math.nan,
) -> tuple[Knowledge, Test]:
    """Test the candidate of an update: play blocks of pairs until they decide, or cannot be paid.

    H₀: J(candidate) ≤ J(in service) − margin, or J(candidate) ≤ reference − margin, where the
    reference is the best lower bound ever in service: against the last one alone, k replacements
    could lose k margins. Test k has α_k = 6α/(π²k²), one half for the sequence of the paired
    differences and one for that of the candidate's returns. `play(block)` gives BLOCK pairs that
    nobody has seen. Returns that are not finite are worse than any other. If the pairs that can be
    paid for would show nothing, there is no test, and nothing is spent.
    """
    pairs = affordable(guard, known, training_steps, max_steps)
    if not is_worthwhile(guard, known, pairs, trained_return):
        return known, Test(NOT_TESTED, smallest_difference=narrowest(guard, known, pairs))
    known = known._replace(num_tests=known.num_tests + 1)
    level = spent(1 - guard.confidence, known.num_tests) / 2
    known = known._replace(level=known.level or level)
    sample, test, block = _Sample(), Test(UNDECIDED), 0
    while (
        test.verdict == UNDECIDED
        and not any(sample.broken)
        and affordable(guard, known, training_steps, max_steps) >= BLOCK
    ):
        known, sample = _with(known, sample, play(block))
        block += 1
        if any(sample.broken):
            test = _broken(sample)
        elif block * BLOCK >= FIRST_LOOK:
            known = known._replace(reference=max(known.reference, known.lower))
            test = _look(guard, known, sample, level)
    expected = {REPLACED: 0.0, ROLLED_BACK: math.inf}.get(test.action, test.difference)
    expected = expected if math.isfinite(expected) else math.inf
    known = known._replace(expected=expected, trained_return=trained_return)
    if test.action == REPLACED:
        known = _in_service(known, test, sample.candidate, update, level)
    return known, test


def _in_service(
    known: Knowledge, test: Test, returns: Moments, update: int, level: float
) -> Knowledge:
    """Knowledge once a candidate is in service; its returns count on from the test."""
    reference = known.reference
    if math.isfinite(test.candidate_low):
        reference = max(reference, test.candidate_low)
    return known._replace(in_service=update, returns=returns, level=level, reference=reference)


def _with(known: Knowledge, sample: _Sample, pairs: Pairs) -> tuple[Knowledge, _Sample]:
    """Knowledge and sample with one more block."""
    ours, theirs = (np.asarray(each, np.float64) for each in pairs[:2])
    known = known._replace(steps=known.steps + pairs.steps)
    broken = not np.isfinite(ours).all(), not np.isfinite(theirs).all()
    if any(broken):
        return known, sample._replace(broken=broken)
    known = known._replace(
        returns=known.returns.add(theirs),
        worst=min(known.worst, float(ours.min()), float(theirs.min())),
        best=max(known.best, float(ours.max()), float(theirs.max())),
    )
    return known, sample._replace(
        difference=sample.difference.add(ours - theirs),
        candidate=sample.candidate.add(ours),
        in_service=sample.in_service.add(theirs),
    )


def _broken(sample: _Sample) -> Test:
    """The verdict if returns were not finite; if both policies have such, there is none."""
    verdict = {(True, False): WORSE, (False, True): BETTER}.get(sample.broken, UNDECIDED)
    return Test(verdict, sample.difference.number + BLOCK)


def _look(guard: Guard, known: Knowledge, sample: _Sample, level: float) -> Test:
    """What the pairs so far show."""
    gap, ours, theirs = sample.difference, sample.candidate, sample.in_service
    fall = max(ours.mean - known.worst, known.best - theirs.mean)  # unseen: worst ours, best theirs
    rise = max(known.best - ours.mean, theirs.mean - known.worst)
    width = radius(gap, level, fall)
    test = Test(
        UNDECIDED,
        num_pairs=gap.number,
        difference=gap.mean,
        low=gap.mean - width,
        high=gap.mean + radius(gap, level, rise),
        candidate=ours.mean,
        candidate_low=lower_bound(ours, level, known.worst),
        candidate_high=upper_bound(ours, level, known.best),
        smallest_difference=width,
    )
    return test._replace(verdict=_verdict(guard, known.reference, test))


def _verdict(guard: Guard, reference: float, test: Test) -> str:
    if test.low > 0:
        return BETTER
    if test.low > -guard.margin and test.candidate_low > reference - guard.margin:
        return NOT_WORSE
    if test.high < -guard.margin or test.candidate_high < reference - guard.margin:
        return WORSE
    return UNDECIDED
