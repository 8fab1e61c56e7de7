"""Whole episodes with a fixed policy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.envs.base import Obs, reset_batch, step_batch
from trpo_jax.learner.acting import decide
from trpo_jax.learner.parts import Parts
from trpo_jax.learner.types import TrainState

DEFAULT_MAX_STEPS = 1000


class EpisodeStats(NamedTuple):
    """Outcome of evaluation episodes."""

    returns: jax.Array
    """float32 [num_episodes]: undiscounted sum of rewards; not finite if a reward was not."""
    lengths: jax.Array
    """int32 [num_episodes]: number of steps."""


class _Loop(NamedTuple):
    key: jax.Array
    env_state: Any
    obs: Obs
    alive: jax.Array
    stats: EpisodeStats
    step: jax.Array


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
    zeros = EpisodeStats(jnp.zeros(num_episodes, jnp.float32), jnp.zeros(num_episodes, jnp.int32))
    start = _Loop(
        loop_key, env_state, obs, jnp.ones(num_episodes, bool), zeros, jnp.zeros((), jnp.int32)
    )

    def unfinished(loop: _Loop) -> jax.Array:
        return jnp.any(loop.alive) & (loop.step < limit)

    def advance(loop: _Loop) -> _Loop:
        next_key, action_key, step_key = jax.random.split(loop.key, 3)
        chosen = decide(parts, state, action_key, loop.obs, deterministic)
        step_keys = jax.random.split(step_key, num_episodes)
        env_state, step = step_batch(env, step_keys, loop.env_state, chosen.env_action)
        stats = EpisodeStats(
            returns=loop.stats.returns + jnp.where(loop.alive, step.reward, 0),
            lengths=loop.stats.lengths + loop.alive.astype(jnp.int32),
        )
        alive = loop.alive & ~(step.terminated | step.truncated)
        return _Loop(next_key, env_state, step.obs, alive, stats, loop.step + 1)

    return jax.lax.while_loop(unfinished, advance, start).stats
