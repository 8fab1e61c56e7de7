"""Whole episodes with a fixed policy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.envs.base import (
    DEFAULT_MAX_STEPS,
    EnvStep,
    Obs,
    cost_names,
    metric_names,
    reset_batch,
    step_batch,
)
from trpo_jax.learner.acting import decide, finite_or_zero
from trpo_jax.learner.bookkeeping import add_finite, total_cost
from trpo_jax.learner.memory import initial_carry
from trpo_jax.learner.parts import Parts
from trpo_jax.learner.types import TrainState


class EpisodeStats(NamedTuple):
    """Outcome of evaluation episodes."""

    returns: jax.Array
    """float32 [num_episodes]: undiscounted sum of rewards; not finite if a reward was not."""
    lengths: jax.Array
    """int32 [num_episodes]: number of steps."""
    metrics: dict[str, jax.Array] = {}  # noqa: RUF012
    """float32 [num_episodes] by name: means of the environment's metrics over the steps."""
    metrics_last: dict[str, jax.Array] = {}  # noqa: RUF012
    """float32 [num_episodes] by name: their values at the last step."""
    costs: jax.Array | None = None
    """float32 [num_episodes]: undiscounted sum of all costs; None if the environment has none."""
    costs_by_name: dict[str, jax.Array] = {}  # noqa: RUF012
    """float32 [num_episodes] by name: the parts of `costs`."""


class _Loop(NamedTuple):
    key: jax.Array
    env_state: Any
    obs: Obs
    alive: jax.Array
    stats: EpisodeStats
    step: jax.Array
    carry: Any


def evaluate(
    parts: Parts,
    state: TrainState,
    key: jax.Array,
    num_episodes: int = 128,
    deterministic: bool = True,
    max_steps: int | None = None,
) -> EpisodeStats:
    """Play `num_episodes` episodes in parallel, each from a fresh initial state to its end.

    Every episode counts once, so short ones are not over-represented. Episodes are cut after
    `max_steps` (by default the environment's own limit, or else 1000). The training environments
    in `state` are not touched.
    """
    env = parts.env
    limit = max_steps or env.max_episode_steps or DEFAULT_MAX_STEPS
    reset_key, loop_key = jax.random.split(key)
    env_state, obs = reset_batch(env, jax.random.split(reset_key, num_episodes))
    zero = jnp.zeros(num_episodes, jnp.float32)
    zeros = EpisodeStats(
        returns=zero,
        lengths=jnp.zeros(num_episodes, jnp.int32),
        metrics=dict.fromkeys(metric_names(env), zero),
        metrics_last=dict.fromkeys(metric_names(env), zero),
        costs_by_name=dict.fromkeys(cost_names(env), zero),
    )
    start = _Loop(
        loop_key,
        env_state,
        obs,
        jnp.ones(num_episodes, bool),
        zeros,
        jnp.zeros((), jnp.int32),
        initial_carry(parts.policy, num_episodes),
    )

    def unfinished(loop: _Loop) -> jax.Array:
        return jnp.any(loop.alive) & (loop.step < limit)

    def advance(loop: _Loop) -> _Loop:
        next_key, action_key, step_key = jax.random.split(loop.key, 3)
        chosen = decide(parts, state, action_key, loop.obs, deterministic, loop.carry)
        step_keys = jax.random.split(step_key, num_episodes)
        env_state, step = step_batch(env, step_keys, loop.env_state, chosen.env_action)
        stats = _count(loop.stats, loop.alive, step)
        alive = loop.alive & ~(step.terminated | step.truncated)
        return _Loop(next_key, env_state, step.obs, alive, stats, loop.step + 1, chosen.carry)

    stats = jax.lax.while_loop(unfinished, advance, start).stats
    return stats._replace(
        metrics={name: total / stats.lengths for name, total in stats.metrics.items()},
        costs=total_cost(stats.costs_by_name) if stats.costs_by_name else None,
    )


def _count(stats: EpisodeStats, alive: jax.Array, step: EnvStep) -> EpisodeStats:
    """Add a step to the episodes that are alive; the metrics are still sums."""
    return EpisodeStats(
        returns=stats.returns + jnp.where(alive, step.reward, 0),
        lengths=stats.lengths + alive.astype(jnp.int32),
        metrics={
            name: add_finite(total, jnp.where(alive, step.metrics[name], 0))
            for name, total in stats.metrics.items()
        },
        metrics_last={
            name: jnp.where(alive, finite_or_zero(step.metrics[name]), before)
            for name, before in stats.metrics_last.items()
        },
        costs_by_name={
            name: total + jnp.where(alive, step.cost[name], 0)
            for name, total in stats.costs_by_name.items()
        },
    )
