"""Is one policy better than another? Both play the same episodes."""

from typing import Any, NamedTuple

import jax
import numpy as np

from trpo_jax.common.checks import is_number, require_whole_number
from trpo_jax.experiments.statistics import bootstrap_interval
from trpo_jax.learner.agent import require_agent, require_own_state
from trpo_jax.learner.trpo import Agent
from trpo_jax.learner.types import TrainState

BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no difference seen"


class CostDifference(NamedTuple):
    """What the episodes of policy B cost against those of policy A."""

    difference: float
    """Mean cost per episode of B minus that of A."""
    interval: tuple[float, float]
    """Paired bootstrap interval of the difference."""
    mean_a: float
    """Mean cost per episode of A."""
    mean_b: float
    """Mean cost per episode of B."""


class Comparison(NamedTuple):
    """Policy B against policy A, on the same episodes."""

    difference: float
    """Mean return of B minus mean return of A; NaN if a return was not finite."""
    interval: tuple[float, float]
    """Paired bootstrap interval of the difference."""
    verdict: str
    """On B: better or worse, if the interval excludes 0; else no difference seen."""
    confidence: float
    """Probability that such an interval contains the true difference."""
    mean_a: float
    """Mean return of A."""
    mean_b: float
    """Mean return of B."""
    num_episodes: int
    """Episodes that each of them played."""
    cost: CostDifference | None = None
    """The same for the costs; None if the environment has none. The verdict is on returns alone."""

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.difference:+.2f} [{low:+.2f}, {high:+.2f}] (mean, {100 * self.confidence:g} % "
            f"interval, {self.num_episodes} pairs of episodes)"
        )


def compare(
    agent: Agent,
    state_a: TrainState,
    state_b: TrainState,
    key: jax.Array,
    agent_b: Agent | None = None,
    *,
    num_episodes: int = 512,
    confidence: float = 0.95,
    deterministic: bool = True,
    max_steps: int | None = None,
) -> Comparison:
    """Play the same episodes with two policies, and say whether B is better than A.

        difference = mean(R_B,i − R_A,i),   i = 1 … num_episodes

    Episode i has the same initial state and the same random keys for both, so what is luck in both
    cancels. `agent_b` is the agent of `state_b`, if it is not that of `state_a`; it may have other
    networks, and acts in the same environment. `deterministic` takes each policy's mode,
    `max_steps` cuts episodes. A policy whose returns are not finite is worse than one whose returns
    are. `key` determines the episodes. The interval has probability `confidence`, and is for one
    look: to look again and again while episodes are added, or at one policy after the other, use a
    guard (docs/guard.md). In environments on the host whose steps draw random numbers, only the
    first 16 episodes begin alike.

    Raises `ValueError` if states and agents do not fit together.
    """
    agent_b = agent if agent_b is None else agent_b
    for name, value in (("agent", agent), ("agent_b", agent_b)):
        require_agent(name, value)
    names = agent.parts.env.name, agent_b.parts.env.name
    if names[0] != names[1]:
        raise ValueError(
            f"agent_b acts in {names[1]} and agent in {names[0]}; policies are compared in the "
            "same environment"
        )
    require_own_state(state_a, agent.parts)
    require_own_state(state_b, agent_b.parts)
    require_whole_number("num_episodes", num_episodes, 2)
    require_confidence(confidence)
    settings: dict[str, Any] = {"deterministic": deterministic, "max_steps": max_steps}
    stats_a, stats_b = (
        each.evaluate(state, key, num_episodes=num_episodes, **settings)
        for each, state in ((agent, state_a), (agent_b, state_b))
    )
    found = compare_returns(stats_a.returns, stats_b.returns, confidence=confidence)
    if stats_a.costs is None or stats_b.costs is None:
        return found
    costs_a, costs_b = (np.asarray(stats.costs, np.float64) for stats in (stats_a, stats_b))
    return found._replace(cost=_cost_difference(costs_a, costs_b, confidence))


def _cost_difference(costs_a: np.ndarray, costs_b: np.ndarray, confidence: float) -> CostDifference:
    difference = costs_b - costs_a
    return CostDifference(
        float(difference.mean()),
        bootstrap_interval(difference, confidence),
        float(costs_a.mean()),
        float(costs_b.mean()),
    )


def compare_returns(returns_a: Any, returns_b: Any, *, confidence: float = 0.95) -> Comparison:
    """The same, given the returns [n] of both policies, episode by episode."""
    ours, theirs = (np.asarray(each, np.float64) for each in (returns_b, returns_a))
    means = float(theirs.mean()), float(ours.mean())
    finite = bool(np.isfinite(theirs).all()), bool(np.isfinite(ours).all())
    if not all(finite):
        verdict = {(True, False): WORSE, (False, True): BETTER}.get(finite, NO_DIFFERENCE)
        nothing = (np.nan, np.nan)
        return Comparison(np.nan, nothing, verdict, confidence, *means, ours.size)
    difference = ours - theirs
    low, high = bootstrap_interval(difference, confidence)
    verdict = BETTER if low > 0 else WORSE if high < 0 else NO_DIFFERENCE
    mean = float(difference.mean())
    return Comparison(mean, (low, high), verdict, confidence, *means, ours.size)


def require_confidence(confidence: Any) -> None:
    """Raise `ValueError` unless it is a number in [0.5, 1)."""
    if not is_number(confidence):
        raise ValueError(f"confidence={confidence!r} must be a number, such as 0.95")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence={confidence} must be in [0.5, 1), such as 0.95")
