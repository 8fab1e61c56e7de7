"""Rollouts: scan the policy through vmapped environments."""

from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.config import TRPOConfig
from trpo_jax.envs.base import Environment, EnvStep, reset_batch, step_batch, where_done
from trpo_jax.learner.acting import act, finite_or_zero, policy_input, to_environment
from trpo_jax.learner.types import EpisodeProgress, TrainState, Trajectory
from trpo_jax.policies.networks import Policy

_STEPS_PER_POOLED_STATE = 32
_MAX_POOL = 1024

# The carry of the scan: states and observations of the environments, episodes in progress.
_Carry = tuple[Any, jax.Array, EpisodeProgress]


def rollout(
    state: TrainState, *, env: Environment, policy: Policy, config: TRPOConfig
) -> tuple[TrainState, Trajectory]:
    """Step N environments T times with the policy of `state`, resetting those that end.

    Returns the state with environments, episodes and key moved on, and what was recorded,
    [T, N, ...]. Observations are normalised with statistics that stay as they are; parameters
    and statistics are not touched.
    """
    next_key, rollout_key, pool_key = jax.random.split(state.key, 3)
    pool = _reset_pool(env, pool_key, config) if env.costly_reset else None

    def advance(carry: _Carry, key: jax.Array) -> tuple[_Carry, Trajectory]:
        env_state, obs, episodes = carry
        action_key, step_key, reset_key = jax.random.split(key, 3)
        policy_obs = policy_input(state.obs_statistics, obs, config.normalize_observations)
        action, distribution = act(policy, state.policy_params, action_key, policy_obs)
        env_action = to_environment(env.action_space, action, config.action_bounds)
        env_state, step = step_batch(env, step_key, env_state, env_action)

        done = step.terminated | step.truncated
        if pool is None:
            fresh = reset_batch(env, reset_key, config.num_envs)
        else:
            fresh = _from_pool(pool, episodes.count)
        after_reset = where_done(done, fresh, (env_state, step.obs))
        episodes = _count_step(episodes, step)
        record = Trajectory(
            obs=finite_or_zero(obs),
            next_obs=finite_or_zero(step.obs),
            action=action,
            log_prob=distribution.log_prob(action),
            distribution=distribution,
            reward=finite_or_zero(step.reward),
            terminated=step.terminated,
            truncated=step.truncated,
            valid=_finite(obs) & _finite(step.obs) & jnp.isfinite(step.reward),
            episode_return=episodes.returns,
            episode_length=episodes.lengths,
        )
        return (*after_reset, _begin_again(episodes, done)), record

    (env_state, obs, episodes), trajectory = jax.lax.scan(
        advance,
        (state.env_state, state.obs, state.episodes),
        jax.random.split(rollout_key, config.num_steps),
    )
    moved = state.replace(key=next_key, env_state=env_state, obs=obs, episodes=episodes)
    return moved, trajectory


def begin_episodes(num_envs: int) -> EpisodeProgress:
    """Bookkeeping of N episodes that have just begun."""
    return EpisodeProgress(
        returns=jnp.zeros(num_envs, jnp.float32),
        lengths=jnp.zeros(num_envs, jnp.int32),
        discounted=jnp.zeros(num_envs, jnp.float32),
        count=jnp.zeros(num_envs, jnp.uint32),
        last_mean_return=jnp.zeros((), jnp.float32),
        any_ended=jnp.zeros((), bool),
    )


def _count_step(episodes: EpisodeProgress, step: EnvStep) -> EpisodeProgress:
    return episodes.replace(
        returns=episodes.returns + finite_or_zero(step.reward), lengths=episodes.lengths + 1
    )


def _begin_again(episodes: EpisodeProgress, done: jax.Array) -> EpisodeProgress:
    return episodes.replace(
        returns=jnp.where(done, 0, episodes.returns),
        lengths=jnp.where(done, 0, episodes.lengths),
        count=episodes.count + done.astype(episodes.count.dtype),
    )


def _reset_pool(env: Environment, key: jax.Array, config: TRPOConfig):
    """Initial states for one rollout, drawn afresh: one for every 32 steps, at most 1024."""
    size = config.batch_size // _STEPS_PER_POOLED_STATE
    return reset_batch(env, key, min(max(size, config.num_envs), _MAX_POOL))


def _from_pool(pool, episode_count: jax.Array):
    """A state per environment; each walks through the pool on a path of its own."""
    num_envs, pool_size = episode_count.shape[0], pool[1].shape[0]
    lane = jnp.arange(num_envs, dtype=episode_count.dtype)
    index = (lane + episode_count * jnp.asarray(num_envs, episode_count.dtype)) % pool_size
    return jax.tree.map(lambda leaf: leaf[index.astype(jnp.int32)], pool)


def _finite(values: jax.Array) -> jax.Array:
    """[N, ...] -> [N]: whether all of an environment's values are finite."""
    return jnp.all(jnp.isfinite(values.reshape(values.shape[0], -1)), axis=-1)
