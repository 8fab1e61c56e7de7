"""The record of an update: the metrics M1–M8 and their alarms."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from trpo_jax.config import HParams
from trpo_jax.learner.batch import PreparedBatch
from trpo_jax.learner.bookkeeping import total_cost
from trpo_jax.learner.normalization import weighted_mean_and_deviation
from trpo_jax.learner.policy_step import StepInfo
from trpo_jax.learner.types import Batch, EpisodeProgress, Trajectory
from trpo_jax.learner.value import ValueFitInfo
from trpo_jax.policies.distributions import Distribution
from trpo_jax.solver.info import ConstraintInfo, TrustRegionInfo

KL_SPIKE = 5.0
"""A candidate whose KL exceeds this multiple of max_kl is a spike."""
ENTROPY_DROP = 0.05
"""Loss of entropy in one update, in nats per action dimension, that counts as sharp."""
HIGH_KL = 0.5
"""Fraction of max_kl above which the KL counts as high."""
INACTIVE_UNITS = 0.1
"""Fraction of inactive units in a layer that raises the alarm."""
RETURN_DROP = 0.5
"""Fraction of |return| lost from one update to the next that raises the alarm."""
VALUE_LOSS = 0.01
"""Fraction of the mean squared value target below which a rising value loss is noise."""
NO_EPISODE = -jnp.inf
"""The mean over episodes where none has ended. Not NaN, which `jax_debug_nans` stops at."""


class Alarms(struct.PyTreeNode):
    """What deserves attention, as bools."""

    kl_spike: jax.Array
    """M1: a candidate of the line search had a KL above 5 × max_kl, or NaN or infinite."""
    cg_diverged: jax.Array
    """M2: the residual ended above its start, or the curvature broke down."""
    value_fit_failed: jax.Array
    """M3: the value loss rose to over 1 % of the mean squared target, or was not finite."""
    locking_in: jax.Array
    """M5: entropy fell by over 0.05 nats per action dimension with a KL above half of max_kl."""
    inactive_units: jax.Array
    """M6: over 10 % of the units of a hidden layer are dead or saturated."""
    return_drop: jax.Array
    """M7: the mean episode return fell by more than half since episodes last ended."""
    off_policy: jax.Array
    """D1: the batch was not drawn from the policy to be improved, and the step was refused."""
    invalid_data: jax.Array
    """Some transitions were not finite, or no action was allowed; they were left out."""


class UpdateMetrics(struct.PyTreeNode):
    """The report of one update; from `train`, every field has a leading axis of
    updates. Scalars unless said.

    The last block belongs to methods with a trust region; it is None if the policy step reports a
    `StepInfo`.
    """

    status: jax.Array
    """int32, a `StepStatus`: why the step was accepted or rejected."""
    accepted: jax.Array
    """bool: whether the policy changed."""
    kl: jax.Array
    """Mean KL(old‖new) of the update in nats, summed over action dimensions; 0 if rejected."""
    kl_per_dimension: jax.Array
    """`kl` divided by the number of action dimensions."""
    improvement: jax.Array
    """Surrogate gain of the update; 0 if rejected."""
    entropy: jax.Array
    """Mean entropy of the policy after the update, in nats, on the batch."""
    entropy_change: jax.Array
    """Change of the mean entropy by the update, in nats."""
    inactive_units: jax.Array
    """[layers]: fraction of dead (for tanh, saturated) units per hidden layer of the policy."""
    advantage_mean: jax.Array
    """Mean advantage before normalisation."""
    advantage_std: jax.Array
    """Standard deviation of the advantages before normalisation."""
    value_loss_before: jax.Array
    """Mean squared error of the critic before its fit."""
    value_loss: jax.Array
    """The same after the fit."""
    explained_variance: jax.Array
    """1 − Var(target − V) / Var(target), before the fit; 0 if the target is constant."""
    episode_return: jax.Array
    """Mean undiscounted return of the episodes that ended in this update; if none did, that of the
    last update in which some did; −∞ before the first."""
    episode_length: jax.Array
    """Mean length of the episodes that ended in this update; −∞ if none did."""
    num_episodes: jax.Array
    """int32: number of episodes that ended in this update."""
    on_policy_gap: jax.Array
    """max |log π_θ(a|s) − log π_old(a|s)| / (1 + |log π_old(a|s)|): rounding, or stale data."""
    valid_fraction: jax.Array
    """Fraction of transitions that were finite and whose mask allowed an action."""
    alarms: Alarms
    """What deserves attention."""
    env_metrics: dict[str, jax.Array] = struct.field(default_factory=dict)
    """What the environment measured, by name: the mean over the steps of an episode, and of this
    the mean over the episodes that ended in this update; −∞ if none did."""
    env_metrics_last: dict[str, jax.Array] = struct.field(default_factory=dict)
    """The same metrics at the last step of an episode, averaged over the same episodes."""
    episode_cost: jax.Array | None = None
    """Mean undiscounted cost of the episodes that ended in this update; if none did, that of the
    last update in which some did; −∞ before the first. None if the environment has no costs."""
    episode_costs: dict[str, jax.Array] = struct.field(default_factory=dict)
    """Its parts by name, if there are several costs; −∞ if no episode ended in this update."""
    cost_estimate: jax.Array | None = None
    """Ĵ_C: mean cost of a valid step of the batch · L̄. None if the environment has no costs."""
    mean_length: jax.Array | None = None
    """L̄: running mean of the length of episodes; the time limit before any ended. None likewise."""
    cost_advantage_std: jax.Array | None = None
    """Standard deviation of Â_C. This and the next three are None without a critic of the costs."""
    cost_value_loss_before: jax.Array | None = None
    """Mean squared error of V_C before its fit."""
    cost_value_loss: jax.Array | None = None
    """The same after the fit."""
    cost_explained_variance: jax.Array | None = None
    """1 − Var(target − V_C) / Var(target), before the fit."""
    memory_use: jax.Array | None = None
    """Mean KL(π_old(·|h)‖π_old(·|fresh memory)) in nats on the batch: what the policy takes from
    its memory, beyond the present observation. None, as the next, for a policy without memory."""
    carry_saturation: jax.Array | None = None
    """Fraction of the policy's memory that is saturated, |h| > 0.99, at the end of the rollout."""
    constraint: ConstraintInfo | None = None
    """What the policy step did about the limit of the costs, per step; None if it has none."""

    step_fraction: jax.Array | None = None
    """Fraction of the full step that was taken; 0 if rejected."""
    num_backtracks: jax.Array | None = None
    """int32: how many times the line search shrank the step."""
    candidate_kls: jax.Array | None = None
    """[max_backtracks + 1]: KL at each candidate of the line search; −1 for those not tried."""
    predicted_improvement: jax.Array | None = None
    """gᵀΔθ: the linear model's prediction for the step taken (the full step if rejected)."""
    gradient_norm: jax.Array | None = None
    """‖∇ surrogate‖."""
    step_norm: jax.Array | None = None
    """‖Δθ‖ of the full step."""
    damping: jax.Array | None = None
    """λ in H + λI."""
    multiplier: jax.Array | None = None
    """Lagrange multiplier √(xᵀ(H + λI)x / 2δ)."""
    cg_iterations: jax.Array | None = None
    """int32: conjugate gradient iterations used."""
    cg_residual_norms: jax.Array | None = None
    """[cg_iterations + 1]: residual norms of the solve."""
    cg_breakdown: jax.Array | None = None
    """bool: the solve met non-positive curvature, or a NaN or infinite value."""
    cg_converged: jax.Array | None = None
    """bool: the solve reached its tolerance; otherwise a breakdown or the number of iterations
    ended it."""


def update_metrics(
    *,
    info: StepInfo | TrustRegionInfo,
    fit: ValueFitInfo,
    cost_fit: ValueFitInfo | None,
    trajectory: Trajectory,
    prepared: PreparedBatch,
    new_distribution: Distribution,
    before: EpisodeProgress,
    after: EpisodeProgress,
    hparams: HParams,
    memory: dict[str, Any],
) -> UpdateMetrics:
    """Assemble the record of one update."""
    batch, weight = prepared.batch, prepared.batch.weight
    entropy, _ = weighted_mean_and_deviation(new_distribution.entropy(), weight)
    old_entropy, _ = weighted_mean_and_deviation(batch.entropy, weight)
    advantage_mean, advantage_std = weighted_mean_and_deviation(prepared.raw_advantage, weight)
    inactive = prepared.inactive_units
    dimensions = new_distribution.num_dimensions
    done = trajectory.terminated | trajectory.truncated
    num_episodes = jnp.sum(done, dtype=jnp.int32)
    mean_length = jnp.sum(trajectory.episode_length * done) / jnp.maximum(num_episodes, 1)

    noise = VALUE_LOSS * weighted_mean_and_deviation(batch.value_target**2, weight)[0]
    lost = before.last_mean_return - after.last_mean_return
    alarms = Alarms(
        kl_spike=_kl_spike(info, hparams),
        cg_diverged=_cg_diverged(info),
        value_fit_failed=~fit.accepted | (fit.loss_after > jnp.maximum(fit.loss_before, noise)),
        locking_in=(entropy - old_entropy < -ENTROPY_DROP * dimensions)
        & (info.kl > HIGH_KL * hparams.max_kl),
        inactive_units=jnp.any(inactive > INACTIVE_UNITS),
        return_drop=before.any_ended & (lost > RETURN_DROP * jnp.abs(before.last_mean_return)),
        off_policy=~prepared.on_policy & ~jnp.isnan(prepared.on_policy_gap),
        invalid_data=~jnp.all(trajectory.valid),
    )
    return UpdateMetrics(
        **info._asdict(),
        kl_per_dimension=info.kl / dimensions,
        entropy=entropy,
        entropy_change=entropy - old_entropy,
        inactive_units=inactive,
        advantage_mean=advantage_mean,
        advantage_std=advantage_std,
        value_loss_before=fit.loss_before,
        value_loss=fit.loss_after,
        explained_variance=_explained_variance(batch.value, batch.value_target, weight),
        episode_return=jnp.where(after.any_ended, after.last_mean_return, NO_EPISODE),
        episode_length=jnp.where(num_episodes > 0, mean_length, NO_EPISODE).astype(jnp.float32),
        num_episodes=num_episodes,
        on_policy_gap=prepared.on_policy_gap,
        valid_fraction=jnp.mean(trajectory.valid, dtype=jnp.float32),
        alarms=alarms,
        env_metrics=_means_at_ends(trajectory.episode_metrics, done),
        env_metrics_last=_means_at_ends(trajectory.metrics, done),
        **_costs(trajectory, after),
        **_cost_critic(batch, cost_fit),
        **memory,
    )


def _costs(trajectory: Trajectory, after: EpisodeProgress) -> dict[str, Any]:
    """The metrics of an environment with costs."""
    if after.costs is None:
        return {}
    valid = _flat(trajectory.valid).astype(jnp.float32)
    mean, _ = weighted_mean_and_deviation(_flat(total_cost(trajectory.costs)), valid)
    done = trajectory.terminated | trajectory.truncated
    several = len(trajectory.costs) > 1
    return {
        "episode_cost": jnp.where(after.any_ended, after.costs.last_mean, NO_EPISODE),
        "episode_costs": _means_at_ends(trajectory.episode_costs, done) if several else {},
        "cost_estimate": mean * after.costs.mean_length,
        "mean_length": after.costs.mean_length,
    }


def _cost_critic(batch: Batch, fit: ValueFitInfo | None) -> dict[str, Any]:
    """The metrics of the critic of the costs."""
    costs = batch.costs
    if costs is None or fit is None:
        return {}
    return {
        "cost_advantage_std": weighted_mean_and_deviation(costs.advantage, batch.weight)[1],
        "cost_value_loss_before": fit.loss_before,
        "cost_value_loss": fit.loss_after,
        "cost_explained_variance": _explained_variance(
            costs.value, costs.value_target, batch.weight
        ),
    }


def _flat(values: jax.Array) -> jax.Array:
    return values.reshape(-1)


def _means_at_ends(metrics: dict[str, jax.Array], done: jax.Array) -> dict[str, jax.Array]:
    """For each name, the mean of values [T, N] over the ends of episodes; −∞ without any."""
    number = jnp.sum(done)
    return {
        name: jnp.where(number > 0, jnp.sum(jnp.where(done, values, 0)) / number, NO_EPISODE)
        for name, values in metrics.items()
    }


def _kl_spike(info: StepInfo | TrustRegionInfo, hparams: HParams) -> jax.Array:
    """Whether a step that was tried had a KL far beyond the trust region, or not finite."""
    if not isinstance(info, TrustRegionInfo):
        return ~(info.kl <= KL_SPIKE * hparams.max_kl)
    kls = info.candidate_kls
    worst = jnp.max(jnp.where(jnp.isnan(kls), -jnp.inf, kls))
    tried = jnp.arange(kls.shape[0]) <= info.num_backtracks
    return (worst > KL_SPIKE * hparams.max_kl) | jnp.any(tried & ~jnp.isfinite(kls))


def _cg_diverged(info: StepInfo | TrustRegionInfo) -> jax.Array:
    if not isinstance(info, TrustRegionInfo):
        return jnp.zeros((), bool)
    return info.cg_breakdown | (info.cg_residual_norms[-1] > info.cg_residual_norms[0])


def _explained_variance(value: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    _, residual = weighted_mean_and_deviation(target - value, weight)
    _, spread = weighted_mean_and_deviation(target, weight)
    return jnp.where(spread > 0, 1 - (residual / jnp.where(spread > 0, spread, 1)) ** 2, 0)
