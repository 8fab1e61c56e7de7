"""Rollouts: a scan of the policy through vmapped environments."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.config import TRPOConfig
from trpo_jax.envs.base import (
    Environment,
    EnvStep,
    Obs,
    finite_rows,
    reset_batch,
    step_batch,
    where_done,
)
from trpo_jax.learner.acting import allows_action, decide, finite_or_zero
from trpo_jax.learner.bookkeeping import begin_again, count_step
from trpo_jax.learner.memory import remembered
from trpo_jax.learner.parts import Parts
from trpo_jax.learner.types import ActorState, EpisodeProgress, TrainState, Trajectory
from trpo_jax.policies.policy import Policy, RecurrentPolicy

_MAX_POOL = 65_536
_STEPS_PER_COSTLY_RESET = 16
_MIN_SHARE = 8


def rollout(
    state: TrainState, *, env: Environment, policy: Policy | RecurrentPolicy, config: TRPOConfig
) -> tuple[TrainState, Trajectory]:
    """Step N environments `env` T times with `policy`, resetting those that end; `config` has N, T.

    Returns the state with new environments, episodes and key, and the trajectory [T, N, ...].
    Parameters and statistics do not change. Initial states come from a pool that is drawn again
    for every rollout.
    """
    parts = Parts(env, config, policy)
    num_steps, num_envs, share = config.num_steps, config.num_envs, _pool_share(env, config)
    # One split for all keys: each call of the random generator costs compile time.
    ends = np.cumsum([1, share * num_envs, num_steps, config.batch_size])
    keys = jax.random.split(state.key, ends[-1])
    next_key, pool_keys, action_keys, step_keys = jnp.split(keys, ends[:-1])
    pool = jax.vmap(lambda row: reset_batch(env, row))(pool_keys.reshape(share, num_envs))

    def advance(
        actor: ActorState, keys: tuple[jax.Array, jax.Array]
    ) -> tuple[ActorState, Trajectory]:
        action_key, step_keys = keys
        obs = actor.obs
        chosen = decide(parts, state, action_key, obs, carry=actor.policy_carry)
        env_state, step = step_batch(env, step_keys, actor.env_state, chosen.env_action)

        done = step.terminated | step.truncated
        fresh = _from_pool(pool, actor.episodes.num_begun)
        env_state, next_obs = where_done(done, fresh, (env_state, step.obs))
        episodes = count_step(actor.episodes, step)
        record = transitions(
            env,
            state.num_updates,
            obs,
            chosen.action,
            chosen.distribution.log_prob(chosen.action),
            chosen.distribution,
            step,
            episodes,
        )
        carry = remembered(parts, actor.carry, chosen.carry, done)
        return ActorState(env_state, next_obs, begin_again(episodes, done), carry), record

    actor, trajectory = jax.lax.scan(
        advance, state.actor, (action_keys, step_keys.reshape(num_steps, num_envs))
    )
    trajectory = trajectory.replace(carry=state.actor.carry)
    return state.replace(key=next_key[0], actor=actor), trajectory


def transitions(
    env: Environment,
    policy_version: jax.Array,
    obs: Obs,
    action: jax.Array,
    log_prob: jax.Array,
    distribution: Any,
    step: EnvStep,
    episodes: EpisodeProgress,
) -> Trajectory:
    """The record of one step in each of N environments; `episodes` already count it."""
    finite = finite_rows(obs) & finite_rows(step.obs) & jnp.isfinite(step.reward)
    for values in step.cost.values():
        finite &= jnp.isfinite(values)
    return Trajectory(
        policy_version=jnp.full(step.reward.shape, policy_version),
        obs=finite_or_zero(obs),
        next_obs=finite_or_zero(step.obs),
        action=action,
        log_prob=log_prob,
        distribution=distribution,
        reward=finite_or_zero(step.reward),
        terminated=step.terminated,
        truncated=step.truncated,
        valid=finite & allows_action(obs, env.action_space),
        episode_return=episodes.returns,
        episode_length=episodes.lengths,
        metrics={name: finite_or_zero(step.metrics[name]) for name in episodes.metrics},
        episode_metrics={
            name: total / episodes.lengths for name, total in episodes.metrics.items()
        },
        costs=finite_or_zero(step.cost),
        episode_costs=episodes.costs.totals if episodes.costs else {},
    )


def _pool_share(env: Environment, config: TRPOConfig) -> int:
    """Number of initial states per environment that are drawn for one rollout, all at once.

    One per step, up to 65,536 in total; one per 16 steps if a reset is costly; but at least 8, or
    one per step. A state is used twice only if an environment ends more episodes in a rollout than
    it has states. This is many times cheaper than a reset within every step.
    """
    share = min(config.num_steps, _MAX_POOL // config.num_envs)
    if env.costly_reset:
        share = config.num_steps // _STEPS_PER_COSTLY_RESET
    return max(share, min(_MIN_SHARE, config.num_steps))


def _from_pool(pool, num_begun: jax.Array):
    """One state per environment from a pool [share, N, ...]; each walks through its own column.

    Written so that no environment needs data from another device.
    """
    share = jnp.asarray(jax.tree.leaves(pool)[0].shape[0], num_begun.dtype)
    row = (num_begun % share).astype(jnp.int32)
    return jax.tree.map(lambda leaf: jax.vmap(_row, in_axes=(1, 0))(leaf, row), pool)


def _row(column: jax.Array, row: jax.Array) -> jax.Array:
    return column[row]
