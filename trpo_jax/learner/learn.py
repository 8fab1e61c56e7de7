"""From a trajectory to the next state: the second half of an update."""

from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.learner.batch import PreparedBatch, prepare_batch
from trpo_jax.learner.monitoring import UpdateMetrics, record_episodes, update_metrics
from trpo_jax.learner.normalization import RunningStatistics, update_statistics
from trpo_jax.learner.policy_step import PolicyStep, guarded_step
from trpo_jax.learner.types import TrainState, Trajectory
from trpo_jax.learner.value import ValueFitInfo, fit_value, fit_value_lbfgs
from trpo_jax.policies.networks import Critic, Policy
from trpo_jax.solver.batches import in_chunks


def learn(
    state: TrainState,
    trajectory: Trajectory,
    hparams: HParams,
    *,
    policy: Policy,
    critic: Critic,
    config: TRPOConfig,
    step: PolicyStep,
) -> tuple[TrainState, UpdateMetrics]:
    """Improve the policy, fit the critic, merge the statistics; in this order.

    A trajectory of another policy version changes none of them.
    """
    next_key, step_key, fit_key = jax.random.split(state.key, 3)
    prepared = prepare_batch(
        state, trajectory, hparams, policy=policy, critic=critic, config=config
    )
    batch = prepared.batch

    policy_params, step_state, info = guarded_step(
        step_key, state, prepared, hparams, policy=policy, config=config, step=step
    )
    value_params, value_opt_state, fit = _fit_critic(
        fit_key, state, prepared, hparams, critic=critic, config=config
    )
    episodes = record_episodes(state.episodes, trajectory)
    metrics = update_metrics(
        step=info,
        fit=fit,
        trajectory=trajectory,
        prepared=prepared,
        new_distribution=in_chunks(policy.apply, config.curvature_chunk_size)(
            policy_params, batch.obs
        ),
        before=state.episodes,
        after=episodes,
        hparams=hparams,
        config=config,
    )
    new_state = state.replace(
        key=next_key,
        num_updates=state.num_updates + 1,
        policy_params=policy_params,
        value_params=value_params,
        value_opt_state=value_opt_state,
        policy_step_state=step_state,
        obs_statistics=_merged_statistics(state, trajectory, prepared, config),
        return_statistics=prepared.return_statistics,
        episodes=episodes.replace(discounted=prepared.discounted),
    )
    return new_state, metrics


def _fit_critic(
    key: jax.Array,
    state: TrainState,
    prepared: PreparedBatch,
    hparams: HParams,
    *,
    critic: Critic,
    config: TRPOConfig,
) -> tuple[Any, Any, ValueFitInfo]:
    """Parameters of V, state of its optimiser, and what happened."""
    batch = prepared.batch
    data: dict[str, Any] = {
        "apply": in_chunks(critic.apply, config.curvature_chunk_size),
        "obs": batch.obs,
        "target": batch.value_target,
        "weight": batch.weight * prepared.on_policy,
    }
    if config.value_optimizer == "lbfgs":
        params, info = fit_value_lbfgs(
            state.value_params, **data, num_iterations=config.value_epochs
        )
        return params, state.value_opt_state, info
    return fit_value(
        key,
        state.value_params,
        state.value_opt_state,
        **data,
        learning_rate=hparams.value_learning_rate,
        num_epochs=config.value_epochs,
        minibatch_size=config.minibatch_size,
    )


def _merged_statistics(
    state: TrainState, trajectory: Trajectory, prepared: PreparedBatch, config: TRPOConfig
) -> RunningStatistics:
    """Statistics of the observations for the next update; only now, so that they were frozen."""
    if not config.normalize_observations:
        return state.obs_statistics
    weight = (trajectory.valid & prepared.on_policy).astype(jnp.float32)
    return update_statistics(state.obs_statistics, trajectory.obs, weight)
