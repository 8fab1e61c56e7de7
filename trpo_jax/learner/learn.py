"""The second half of an update: from a trajectory to the next state."""

from typing import Any

import jax

from trpo_jax.common import trees
from trpo_jax.common.batches import in_chunks
from trpo_jax.config import HParams
from trpo_jax.learner.batch import PreparedBatch, prepare_batch
from trpo_jax.learner.bookkeeping import merge_observations, record_episodes, scale_rewards
from trpo_jax.learner.memory import memory_metrics, on_examples
from trpo_jax.learner.monitoring import UpdateMetrics, update_metrics
from trpo_jax.learner.parts import Parts
from trpo_jax.learner.policy_step import guarded_step
from trpo_jax.learner.types import CostCritic, TrainState, Trajectory
from trpo_jax.learner.value import ValueFitInfo


def learn(
    parts: Parts, state: TrainState, trajectory: Trajectory, hparams: HParams
) -> tuple[TrainState, UpdateMetrics]:
    """Improve the policy, fit the critic and merge the statistics, in this order.

    A trajectory from another policy version changes none of these.
    """
    config = parts.config
    next_key, step_key, fit_key = jax.random.split(state.key, 3)
    rewards = scale_rewards(state, trajectory, hparams, config)
    prepared = prepare_batch(parts, state, trajectory, rewards.reward, hparams)
    policy_params, step_state, info = guarded_step(parts, step_key, state, prepared, hparams)
    before_fit = state.value_params, state.value_opt_state
    value_params, fit_state, fit = _guarded_fit(parts, fit_key, before_fit, prepared, hparams)
    cost_critic, cost_fit = _fitted_cost_critic(parts, fit_key, state, prepared, hparams)

    before = state.actor.episodes
    carry = trees.select(prepared.on_policy, prepared.carry, state.actor.carry)
    episodes = record_episodes(before, trajectory)
    new_policy = in_chunks(on_examples(parts.policy), config.chunk_size)
    metrics = update_metrics(
        info=info,
        fit=fit,
        cost_fit=cost_fit,
        trajectory=trajectory,
        prepared=prepared,
        new_distribution=new_policy(policy_params, prepared.batch.policy_obs),
        before=before,
        after=episodes,
        hparams=hparams,
        memory=memory_metrics(parts, state, prepared.batch),
    )
    new_state = state.replace(
        key=next_key,
        num_updates=state.num_updates + 1,
        policy_params=policy_params,
        value_params=value_params,
        value_opt_state=fit_state,
        policy_step_state=step_state,
        obs_statistics=merge_observations(state, trajectory, prepared.on_policy, config),
        return_statistics=trees.select(
            prepared.on_policy, rewards.statistics, state.return_statistics
        ),
        actor=state.actor.replace(
            episodes=episodes.replace(discounted=rewards.discounted), carry=carry
        ),
        cost_critic=cost_critic,
    )
    return new_state, metrics


def _guarded_fit(
    parts: Parts, key: jax.Array, before: Any, prepared: PreparedBatch, hparams: HParams
) -> tuple[Any, Any, ValueFitInfo]:
    """The value fit from (params, state); rejected if the batch is off-policy or the result is not
    finite."""
    weight = prepared.batch.weight * prepared.on_policy
    params, fit_state, info = parts.value_fit.apply(
        key,
        in_chunks(on_examples(parts.critic), parts.config.chunk_size),
        *before,
        prepared.batch.replace(weight=weight),
        hparams,
        parts.config,
    )
    if not isinstance(info, ValueFitInfo):
        raise ValueError(f"the value fit must return a ValueFitInfo; got {info!r}")
    kept = info.accepted & prepared.on_policy
    if not parts.value_fit.rejects_itself:
        kept &= trees.all_finite((params, fit_state))
    params, fit_state = trees.select(kept, (params, fit_state), before)
    return params, fit_state, info._replace(accepted=kept)


def _fitted_cost_critic(
    parts: Parts, key: jax.Array, state: TrainState, prepared: PreparedBatch, hparams: HParams
) -> tuple[CostCritic | None, ValueFitInfo | None]:
    """V_C after its fit, the same as that of V; None if there is none."""
    critic, costs = state.cost_critic, prepared.batch.costs
    if critic is None or costs is None:
        return critic, None
    batch = prepared.batch.for_costs()
    params, opt_state, info = _guarded_fit(
        parts,
        jax.random.fold_in(key, 1),
        (critic.params, critic.opt_state),
        prepared._replace(batch=batch),
        hparams,
    )
    return CostCritic(params, opt_state), info
