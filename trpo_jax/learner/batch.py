"""From a trajectory to a batch: values, advantages, normalisation, flattening, on-policy check."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.learner.acting import policy_input
from trpo_jax.learner.advantage import gae
from trpo_jax.learner.normalization import (
    RunningStatistics,
    discounted_returns,
    scale_by_deviation,
    update_statistics,
    weighted_mean_and_deviation,
)
from trpo_jax.learner.types import Batch, TrainState, Trajectory
from trpo_jax.policies.networks import Critic, Policy, idle_sides, share_of_idle
from trpo_jax.solver import trees
from trpo_jax.solver.batches import in_chunks, map_chunks

OFF_POLICY_GAP = 0.1
"""Tolerance for |log π_θ(a|s) − log π_old(a|s)| / (1 + |log π_old(a|s)|): wide enough for products
in reduced precision, since stale data is told by its version; this is for data that was changed."""


class PreparedBatch(NamedTuple):
    """A batch, and what its preparation learned."""

    batch: Batch
    raw_advantage: jax.Array
    """[B]: before normalisation."""
    on_policy_gap: jax.Array
    """Largest relative difference between stored and recomputed log-probabilities."""
    on_policy: jax.Array
    """bool: the data is of this version of the policy, and the gap no more than rounding."""
    inactive_units: jax.Array
    """[layers]: share of dead or saturated units per hidden layer of the policy."""
    return_statistics: RunningStatistics
    """With the returns of this trajectory merged in."""
    discounted: jax.Array
    """[N]: running discounted returns after the last step."""


def prepare_batch(
    state: TrainState,
    trajectory: Trajectory,
    hparams: HParams,
    *,
    policy: Policy,
    critic: Critic,
    config: TRPOConfig,
) -> PreparedBatch:
    """Everything between the rollout and the policy step.

    Rewards are scaled by statistics that include this trajectory: unlike those of the observations
    they do not enter the policy, so nothing has to stay frozen. Transitions that are not valid
    get weight 0, advantage 0, and cut the advantage recursion.
    """
    valid = trajectory.valid
    reward, return_statistics, discounted = _scaled_rewards(state, trajectory, hparams, config)
    obs, next_obs = (
        _flatten(policy_input(state.obs_statistics, seen, config.normalize_observations))
        for seen in (trajectory.obs, trajectory.next_obs)
    )
    value, next_value = _values(critic, state, obs, next_obs, config)
    advantage, value_target = _advantages(
        jnp.where(valid, reward, 0),
        jnp.where(valid, value, 0),
        jnp.where(valid, next_value, 0),
        trajectory.terminated,
        trajectory.truncated | ~valid,
        hparams,
        config,
    )

    advantage, action = _flatten(advantage), _flatten(trajectory.action)
    weight = _flatten(valid).astype(jnp.float32)
    distribution, inactive_units = _old_policy(policy, state, obs, weight, config)
    log_prob = distribution.log_prob(action)
    batch = Batch(
        obs=obs,
        action=action,
        distribution=distribution,
        log_prob=log_prob,
        entropy=distribution.entropy(),
        advantage=_normalized(advantage, weight) if config.normalize_advantages else advantage,
        value=_flatten(value),
        value_target=_flatten(value_target),
        weight=weight,
    )
    stored = _flatten(trajectory.log_prob)
    gap = jnp.abs(log_prob - stored) / (1 + jnp.abs(stored))
    on_policy_gap = jnp.max(jnp.where(weight > 0, gap, 0))
    same_version = jnp.all(trajectory.policy_version == state.num_updates)
    on_policy = same_version & (on_policy_gap <= OFF_POLICY_GAP)
    return PreparedBatch(
        batch=batch,
        raw_advantage=advantage,
        on_policy_gap=on_policy_gap,
        on_policy=on_policy,
        inactive_units=inactive_units,
        return_statistics=trees.select(on_policy, return_statistics, state.return_statistics),
        discounted=discounted,
    )


def _values(critic: Critic, state: TrainState, obs, next_obs, config: TRPOConfig):
    """Values [T, N] of both observations [B, ...], in one call."""
    both = jnp.stack([obs, next_obs], axis=1).reshape(-1, *obs.shape[1:])
    values = in_chunks(critic.apply, config.curvature_chunk_size)(state.value_params, both)
    return tuple(_unflatten(column, config.num_steps) for column in values.reshape(-1, 2).T)


def _old_policy(policy: Policy, state: TrainState, obs, weight, config: TRPOConfig):
    """π_old on the batch, and the share of its units that are idle there, per layer."""

    def apply(rows):
        row_obs, row_weight = rows
        distribution, units = policy.apply_with_units(state.policy_params, row_obs)
        return distribution, idle_sides(config.activation, units, row_weight)

    distribution, idle = map_chunks(apply, (obs, weight), config.curvature_chunk_size)
    return distribution, share_of_idle([jnp.all(sides, axis=0) for sides in idle])


def _scaled_rewards(state, trajectory: Trajectory, hparams: HParams, config: TRPOConfig):
    if not config.normalize_rewards:
        return trajectory.reward, state.return_statistics, state.episodes.discounted
    done = trajectory.terminated | trajectory.truncated
    discounted, returns = discounted_returns(
        state.episodes.discounted, trajectory.reward, done, hparams.gamma
    )
    weight = trajectory.valid.astype(jnp.float32)
    statistics = update_statistics(state.return_statistics, returns, weight)
    discounted = jnp.where(jnp.isfinite(discounted), discounted, 0)
    return scale_by_deviation(statistics, trajectory.reward), statistics, discounted


def _advantages(reward, value, next_value, terminated, truncated, hparams, config):
    """GAE; the target is its λ-return, or the return with λ = 1: Monte-Carlo with bootstrap."""
    steps = (reward, value, next_value, terminated, truncated)
    advantage, target = gae(*steps, gamma=hparams.gamma, gae_lambda=hparams.gae_lambda)
    if config.value_target == "monte_carlo":
        _, target = gae(*steps, gamma=hparams.gamma, gae_lambda=1.0)
    return advantage, target


def _normalized(advantage: jax.Array, weight: jax.Array) -> jax.Array:
    """Zero mean and unit variance; zero if all are equal to rounding.

    Not a number if the variance overflows: better a step that says so than one without advantages.
    """
    mean, deviation = weighted_mean_and_deviation(advantage, weight)
    centred = weight * (advantage - mean)
    rounding = 1e-6 * jnp.abs(mean)
    usable = deviation > rounding
    deviation = jnp.where(jnp.isfinite(deviation), deviation, jnp.nan)
    return jnp.where(usable, centred / jnp.where(usable, deviation, 1), 0)


def _flatten(leaf: jax.Array) -> jax.Array:
    """[T, N, ...] -> [B, ...]; the one place where time and environments become one axis.

    Environment by environment: those of one device stay together, and none of it moves.
    """
    return jnp.swapaxes(leaf, 0, 1).reshape(-1, *leaf.shape[2:])


def _unflatten(leaf: jax.Array, num_steps: int) -> jax.Array:
    """[B, ...] -> [T, N, ...]."""
    return jnp.swapaxes(leaf.reshape(-1, num_steps, *leaf.shape[1:]), 0, 1)
