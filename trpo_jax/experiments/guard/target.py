"""Whether a policy has reached a return: a sequential test that ends a run."""

from typing import Any, NamedTuple

import jax
import numpy as np

from trpo_jax.experiments.evaluation import evaluation_program
from trpo_jax.experiments.guard.deciding import FIRST_LOOK
from trpo_jax.experiments.statistics import Moments, lower_bound, spent, upper_bound
from trpo_jax.learner.trpo import Agent

_ALPHA = 0.05
"""Error budget of a run: the probability that it ends although its policy falls short."""
_MAX_EPISODES = 512
_TARGET_SEED = 0x74617267


class TargetTest(NamedTuple):
    """What is known about a run and its target after an evaluation."""

    num_tests: int = 0
    """Tests so far; test k has the part α_k of the error budget."""
    lower: float | None = None
    """Lower bound of the mean return of the last policy evaluated; None if it was not tested."""
    num_episodes: int = 0
    """Episodes of its test."""
    worst: float = 0.0
    """The worst return in any evaluation or test so far; 0 always counts as possible."""
    best: float = 0.0
    """The best one, alike."""


class Target:
    """Tests the policies whose evaluation lies above the target, on episodes of their own.

    J(policy) ≤ target is the null hypothesis. Test k has α_k = 6α/(π²k²) with α = 0.05, and looks
    at a confidence sequence after every 32 episodes, at most 512. The evaluation itself only says
    which policies are tested: all evaluations share their episodes.
    """

    def __init__(self, agent: Agent, value: float, seed: int, earlier: dict[str, Any] | None):
        """`earlier` is the record of the last evaluation that a run continues after."""
        self.value = value
        self.known = TargetTest(**earlier) if earlier else TargetTest()
        self._play = evaluation_program(agent, FIRST_LOOK, lanes=False)
        key = jax.random.fold_in(jax.random.key(0), _TARGET_SEED)
        self._key = jax.random.fold_in(key, seed)

    @property
    def lower(self) -> float:
        """Lower bound of the mean return, if the last evaluation was tested; else −∞."""
        return -np.inf if self.known.lower is None else self.known.lower

    def test(self, state: Any, update: int, evaluated: np.ndarray) -> TargetTest:
        """Test the policy of an update, given the returns [n] of its evaluation."""
        self._widen(evaluated)
        if not evaluated.mean() >= self.value:  # NaN too
            self.known = self.known._replace(lower=None, num_episodes=0)
            return self.known
        number, moments, low, high = self.known.num_tests + 1, Moments(), -np.inf, np.inf
        level, key = spent(_ALPHA, number), jax.random.fold_in(self._key, update)
        while low <= self.value <= high and moments.number < _MAX_EPISODES:
            block = jax.device_get(self._play(state, jax.random.fold_in(key, moments.number)))
            returns = np.asarray(block.returns[0], np.float64)
            if not np.isfinite(returns).all():
                break
            self._widen(returns)
            moments = moments.add(returns)
            low = lower_bound(moments, level, self.known.worst)
            high = upper_bound(moments, level, self.known.best)
        self.known = self.known._replace(
            num_tests=number,
            lower=low if np.isfinite(low) else None,
            num_episodes=moments.number,
        )
        return self.known

    def _widen(self, returns: np.ndarray) -> None:
        """Take note of the worst and the best of more returns."""
        finite = returns[np.isfinite(returns)].astype(np.float64).tolist()
        self.known = self.known._replace(
            worst=min([*finite, self.known.worst]), best=max([*finite, self.known.best])
        )
