"""Rollouts: scan the policy through vmapped environments."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.config import TRPOConfig
from trpo_jax.envs.base import Environment, EnvStep, reset_batch, step_batch, where_done
from trpo_jax.learner.acting import choose, finite_or_zero, policy_input, to_environment
from trpo_jax.learner.types import EpisodeProgress, TrainState, Trajectory
from trpo_jax.policies.networks import Policy

_MAX_POOL = 65_536
_STEPS_PER_COSTLY_RESET = 16
_MIN_SHARE = 8

# The carry of the scan: states and observations of the environments, episodes in progress.
_Carry = tuple[Any, jax.Array, EpisodeProgress]


def rollout(
    state: TrainState, *, env: Environment, policy: Policy, config: TRPOConfig
) -> tuple[TrainState, Trajectory]:
    """Step N environments T times with the policy of `state`, resetting those that end.

    Returns the state with environments, episodes and key moved on, and what was recorded,
    [T, N, ...]. Observations are normalised with statistics that stay as they are; parameters
    and statistics are not touched. Initial states come from a pool drawn afresh for every rollout.
    """
    num_steps, num_envs, share = config.num_steps, config.num_envs, _pool_share(env, config)
    # One split for all of them: every call of the random generator costs time to compile.
    ends = np.cumsum([1, share * num_envs, num_steps, config.batch_size])
    keys = jax.random.split(state.key, ends[-1])
    next_key, pool_keys, action_keys, step_keys = jnp.split(keys, ends[:-1])
    pool = jax.vmap(lambda row: reset_batch(env, row))(pool_keys.reshape(share, num_envs))

    def advance(carry: _Carry, keys: tuple[jax.Array, jax.Array]) -> tuple[_Carry, Trajectory]:
        env_state, obs, episodes = carry
        action_key, step_keys = keys
        policy_obs = policy_input(state.obs_statistics, obs, config.normalize_observations)
        action, distribution = choose(policy, state.policy_params, action_key, policy_obs)
        env_action = to_environment(env.action_space, action, config.action_bounds)
        env_state, step = step_batch(env, step_keys, env_state, env_action)

        done = step.terminated | step.truncated
        fresh = _from_pool(pool, episodes.count)
        after_reset = where_done(done, fresh, (env_state, step.obs))
        episodes = _count_step(episodes, step)
        record = Trajectory(
            policy_version=jnp.full(num_envs, state.num_updates),
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
        (action_keys, step_keys.reshape(num_steps, num_envs)),
    )
    moved = state.replace(key=next_key[0], env_state=env_state, obs=obs, episodes=episodes)
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
    largest = jnp.finfo(episodes.returns.dtype).max
    returns = jnp.clip(episodes.returns + finite_or_zero(step.reward), -largest, largest)
    return episodes.replace(returns=returns, lengths=episodes.lengths + 1)


def _begin_again(episodes: EpisodeProgress, done: jax.Array) -> EpisodeProgress:
    return episodes.replace(
        returns=jnp.where(done, 0, episodes.returns),
        lengths=jnp.where(done, 0, episodes.lengths),
        count=episodes.count + done.astype(episodes.count.dtype),
    )


def _pool_share(env: Environment, config: TRPOConfig) -> int:
    """How many initial states per environment, drawn all at once, one rollout begins episodes from.

    One for each of its steps, as far as 65,536 in all go; where a reset is dear, one for every 16
    steps; at least 8, or one per step. None is used twice unless an environment ends more episodes
    in a rollout than its share has states. This is many times cheaper than a reset within every
    step.
    """
    share = min(config.num_steps, _MAX_POOL // config.num_envs)
    if env.costly_reset:
        share = config.num_steps // _STEPS_PER_COSTLY_RESET
    return max(share, min(_MIN_SHARE, config.num_steps))


def _from_pool(pool, episode_count: jax.Array):
    """A state per environment from a pool [share, N, ...]; each goes through its own column.

    Written so that environments which lie on another device are never asked.
    """
    share = jnp.asarray(pool[1].shape[0], episode_count.dtype)
    row = (episode_count % share).astype(jnp.int32)
    return jax.tree.map(lambda leaf: jax.vmap(_row, in_axes=(1, 0))(leaf, row), pool)


def _row(column: jax.Array, row: jax.Array) -> jax.Array:
    return column[row]


def _finite(values: jax.Array) -> jax.Array:
    """[N, ...] -> [N]: whether all of an environment's values are finite."""
    return jnp.all(jnp.isfinite(values.reshape(values.shape[0], -1)), axis=-1)
