"""Bookkeeping of episodes and running statistics, from step to step and update to update."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.envs.base import (
    DEFAULT_MAX_STEPS,
    Environment,
    EnvStep,
    cost_names,
    metric_names,
)
from trpo_jax.learner.acting import finite_or_zero
from trpo_jax.learner.normalization import (
    RunningStatistics,
    discounted_returns,
    scale_by_deviation,
    update_statistics,
)
from trpo_jax.learner.types import CostProgress, EpisodeProgress, TrainState, Trajectory


def begin_episodes(env: Environment, num_envs: int) -> EpisodeProgress:
    """The progress of N episodes that have just begun."""
    return EpisodeProgress(
        returns=jnp.zeros(num_envs, jnp.float32),
        lengths=jnp.zeros(num_envs, jnp.int32),
        discounted=jnp.zeros(num_envs, jnp.float32),
        num_begun=jnp.zeros(num_envs, jnp.uint32),
        last_mean_return=jnp.zeros((), jnp.float32),
        any_ended=jnp.zeros((), bool),
        metrics={name: jnp.zeros(num_envs, jnp.float32) for name in metric_names(env)},
        costs=_no_costs_yet(env, num_envs) if cost_names(env) else None,
    )


def _no_costs_yet(env: Environment, num_envs: int) -> CostProgress:
    return CostProgress(
        totals={name: jnp.zeros(num_envs, jnp.float32) for name in cost_names(env)},
        last_mean=jnp.zeros((), jnp.float32),
        mean_length=jnp.asarray(env.max_episode_steps or DEFAULT_MAX_STEPS, jnp.float32),
    )


def count_step(episodes: EpisodeProgress, step: EnvStep) -> EpisodeProgress:
    """Add one step of every environment to the progress of its episode."""
    return episodes.replace(
        returns=add_finite(episodes.returns, step.reward),
        lengths=episodes.lengths + 1,
        metrics={
            name: add_finite(total, step.metrics[name]) for name, total in episodes.metrics.items()
        },
        costs=_with_totals(episodes.costs, lambda name, total: add_finite(total, step.cost[name])),
    )


def _with_totals(
    costs: CostProgress | None, change: Callable[[str, jax.Array], jax.Array]
) -> CostProgress | None:
    """The progress of the costs with other totals; None if there are no costs."""
    if costs is None:
        return None
    return costs.replace(totals={name: change(name, x) for name, x in costs.totals.items()})


def add_finite(total: jax.Array, values: jax.Array) -> jax.Array:
    """total + values, where NaN and ±∞ count as 0 and no sum overflows."""
    largest = jnp.finfo(total.dtype).max
    return jnp.clip(total + finite_or_zero(values), -largest, largest)


def begin_again(episodes: EpisodeProgress, done: jax.Array) -> EpisodeProgress:
    """Start the episodes over where `done` [N]."""
    return episodes.replace(
        returns=jnp.where(done, 0, episodes.returns),
        lengths=jnp.where(done, 0, episodes.lengths),
        metrics={name: jnp.where(done, 0, total) for name, total in episodes.metrics.items()},
        costs=_with_totals(episodes.costs, lambda _, total: jnp.where(done, 0, total)),
        num_begun=episodes.num_begun + done.astype(episodes.num_begun.dtype),
    )


class ScaledRewards(NamedTuple):
    """Rewards scaled for the advantages, and the statistics used for it."""

    reward: jax.Array
    """float32 [T, N]."""
    statistics: RunningStatistics
    """Statistics of the discounted returns, including this trajectory."""
    discounted: jax.Array
    """[N]: running discounted returns after the last step."""


def scale_rewards(
    state: TrainState, trajectory: Trajectory, hparams: HParams, config: TRPOConfig
) -> ScaledRewards:
    """Divide rewards by the running deviation of the discounted returns, if configured.

    The statistics include this trajectory. They do not enter the policy, so unlike those of the
    observations they need not stay frozen.
    """
    carried = state.actor.episodes.discounted
    if not config.normalize_rewards:
        return ScaledRewards(trajectory.reward, state.return_statistics, carried)
    done = trajectory.terminated | trajectory.truncated
    discounted, returns = discounted_returns(carried, trajectory.reward, done, hparams.gamma)
    weight = trajectory.valid.astype(jnp.float32)
    statistics = update_statistics(state.return_statistics, returns, weight)
    return ScaledRewards(
        scale_by_deviation(statistics, trajectory.reward), statistics, finite_or_zero(discounted)
    )


def record_episodes(episodes: EpisodeProgress, trajectory: Trajectory) -> EpisodeProgress:
    """Remember the mean return of the episodes that ended in this trajectory, if any did."""
    done = trajectory.terminated | trajectory.truncated
    num_episodes = jnp.sum(done)
    mean = jnp.sum(trajectory.episode_return * done) / jnp.maximum(num_episodes, 1)
    usable = (num_episodes > 0) & jnp.isfinite(mean)
    return episodes.replace(
        last_mean_return=jnp.where(usable, mean, episodes.last_mean_return).astype(jnp.float32),
        any_ended=episodes.any_ended | usable,
        costs=None if episodes.costs is None else _record_costs(episodes, trajectory),
    )


def _record_costs(episodes: EpisodeProgress, trajectory: Trajectory) -> CostProgress:
    """Mean cost and length of the episodes that ended.

    The first lengths replace the time limit; later, n of them weigh n / (n + 8), so that a batch in
    which one episode ends does not decide the limit per step by itself.
    """
    costs = episodes.costs
    assert costs is not None
    done = trajectory.terminated | trajectory.truncated
    number = jnp.sum(done)
    divisor = jnp.maximum(number, 1)
    cost = jnp.sum(total_cost(trajectory.episode_costs) * done) / divisor
    length = jnp.sum(trajectory.episode_length * done) / divisor
    weight = jnp.where(episodes.any_ended, number / (number + _REMEMBERED), number > 0)
    return costs.replace(
        last_mean=jnp.where(number > 0, cost, costs.last_mean).astype(jnp.float32),
        mean_length=(costs.mean_length + weight * (length - costs.mean_length)).astype(jnp.float32),
    )


def mean_length(state: TrainState, trajectory: Trajectory) -> jax.Array:
    """L̄, with the episodes that ended in this trajectory; of an environment with costs."""
    costs = record_episodes(state.actor.episodes, trajectory).costs
    assert costs is not None
    return costs.mean_length


_REMEMBERED = 8
"""Episodes that the mean length remembers."""


def total_cost(costs: dict[str, jax.Array]) -> jax.Array:
    """The sum of the costs of all names."""
    return functools.reduce(jnp.add, costs.values())


def merge_observations(
    state: TrainState, trajectory: Trajectory, on_policy: jax.Array, config: TRPOConfig
) -> RunningStatistics:
    """Statistics of the observations for the next update. Merged at the end: frozen until then."""
    if not config.normalize_observations:
        return state.obs_statistics
    weight = (trajectory.valid & on_policy).astype(jnp.float32)
    return update_statistics(state.obs_statistics, trajectory.obs, weight)
