"""From a trajectory to a batch: values, advantages, normalisation, flattening, on-policy check."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.common.batches import in_chunks, map_chunks
from trpo_jax.config import HParams
from trpo_jax.envs.base import Obs
from trpo_jax.learner.acting import network_input
from trpo_jax.learner.advantage import gae
from trpo_jax.learner.bookkeeping import mean_length, total_cost
from trpo_jax.learner.memory import (
    carries_after,
    on_examples,
    on_examples_with_units,
    sequence_starts,
    values_of_both,
)
from trpo_jax.learner.normalization import weighted_mean_and_deviation
from trpo_jax.learner.parts import Parts
from trpo_jax.learner.types import (
    Batch,
    BatchCosts,
    Carries,
    SequenceStarts,
    TrainState,
    Trajectory,
)
from trpo_jax.policies.networks import idle_sides, share_of_idle
from trpo_jax.spaces import critic_view, policy_view

OFF_POLICY_GAP = 0.1
"""Tolerance for |log π_θ(a|s) − log π_old(a|s)| / (1 + |log π_old(a|s)|). It detects data that was
changed, and is wide enough for products in reduced precision; the version detects stale data."""


class PreparedBatch(NamedTuple):
    """A batch, and what its preparation found."""

    batch: Batch
    raw_advantage: jax.Array
    """[B]: advantages before normalisation."""
    on_policy_gap: jax.Array
    """Largest relative difference between stored and recomputed log-probabilities."""
    on_policy: jax.Array
    """bool: the data comes from this policy version, and the gap is within the tolerance."""
    inactive_units: jax.Array
    """[layers]: fraction of dead or saturated units per hidden layer of the policy."""
    carry: Carries | None = None
    """The memories after the batch; None if no network has any."""


class _Seen(NamedTuple):
    """What the networks see of a trajectory, as examples."""

    obs: Obs
    next_obs: Obs
    starts: SequenceStarts | None

    def by(self, network: str) -> Any:
        """The examples as the policy or one of the critics reads them."""
        obs = policy_view(self.obs) if network == "policy" else critic_view(self.obs)
        return obs if self.starts is None else self.starts.sequences(obs, network)


def prepare_batch(
    parts: Parts,
    state: TrainState,
    trajectory: Trajectory,
    reward: jax.Array,
    hparams: HParams,
) -> PreparedBatch:
    """Everything between the rollout and the policy step; `reward` [T, N] is already scaled.

    Invalid transitions get weight 0 and advantage 0, and stop the advantage recursion.
    """
    config = parts.config
    valid = trajectory.valid
    starts = sequence_starts(parts, trajectory)
    arrange = _arrangement(starts)
    obs, next_obs = (
        jax.tree.map(arrange, network_input(parts, state.obs_statistics, seen))
        for seen in (trajectory.obs, trajectory.next_obs)
    )
    seen = _Seen(obs, next_obs, starts)
    value, next_value, critic_carry = _values(parts, state.value_params, seen, "critic")
    advantage, value_target = _advantages(trajectory, reward, value, next_value, hparams, config)

    advantage, action = arrange(advantage), arrange(trajectory.action)
    weight = arrange(valid).astype(jnp.float32)
    distribution, inactive_units = _old_policy(parts, state, seen.by("policy"), weight)
    log_prob = distribution.log_prob(action)
    costs, cost_carry = _batch_costs(parts, state, trajectory, seen, arrange, hparams)
    batch = Batch(
        obs=obs,
        action=action,
        distribution=distribution,
        log_prob=log_prob,
        entropy=distribution.entropy(),
        advantage=_normalized(advantage, weight) if config.normalize_advantages else advantage,
        value=arrange(value),
        value_target=arrange(value_target),
        weight=weight,
        costs=costs,
        starts=starts,
    )
    stored = arrange(trajectory.log_prob)
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
        carry=carries_after(parts, state.actor.carry, trajectory, critic_carry, cost_carry),
    )


def _batch_costs(
    parts: Parts,
    state: TrainState,
    trajectory: Trajectory,
    seen: _Seen,
    arrange: Callable[[jax.Array], jax.Array],
    hparams: HParams,
) -> tuple[BatchCosts | None, Any]:
    """Advantages of the costs and the excess over the limit, and the memory of V_C at the end; None
    if no policy step uses them."""
    if not parts.policy_step.uses_costs:
        return None, None
    critic = state.cost_critic
    cost, length = total_cost(trajectory.costs), mean_length(state, trajectory)
    if critic is None:
        raise ValueError("state.cost_critic=None; take a state of this agent's own `init`")
    value, next_value, carry = _values(parts, critic.params, seen, "cost_critic")
    discounts = hparams.replace(gamma=hparams.cost_gamma, gae_lambda=hparams.cost_gae_lambda)
    advantage, target = _advantages(trajectory, cost, value, next_value, discounts, parts.config)
    advantage, weight = arrange(advantage), arrange(trajectory.valid).astype(jnp.float32)
    mean, _ = weighted_mean_and_deviation(advantage, weight)
    excess = arrange(cost) - hparams.cost_limit / length
    costs = BatchCosts(
        advantage=weight * (advantage - mean),
        excess=excess,
        mean_length=jnp.broadcast_to(length, excess.shape),
        value=arrange(value),
        value_target=arrange(target),
    )
    return costs, carry


def _values(parts: Parts, value_params: Any, seen: _Seen, critic: str) -> tuple[Any, Any, Any]:
    """Values [T, N] of both observations, and the critic's memory at the end."""
    config, following = parts.config, critic_view(seen.next_obs)
    if seen.starts is not None:
        value, next_value, carry = in_chunks(
            lambda params, both: values_of_both(parts.critic, params, *both), config.chunk_size
        )(value_params, (seen.by(critic), following))
        return value.T, next_value.T, carry
    both = jax.tree.map(
        lambda now, later: jnp.stack([now, later], axis=1).reshape(-1, *now.shape[1:]),
        critic_view(seen.obs),
        following,
    )
    apply = in_chunks(on_examples(parts.critic), config.chunk_size)
    values = apply(value_params, both).reshape(-1, 2)
    value, next_value = (_unflatten(column, config.num_steps) for column in values.T)
    return value, next_value, None


def _old_policy(parts: Parts, state: TrainState, examples: Any, weight: jax.Array):
    """π_old on the batch, and per layer the fraction of units that are idle on it."""
    config, read = parts.config, on_examples_with_units(parts.policy)

    def apply(rows):
        row_examples, row_weight = rows
        distribution, units = read(state.policy_params, row_examples)
        return distribution, idle_sides(config.activation, units, row_weight.reshape(-1))

    distribution, idle = map_chunks(apply, (examples, weight), config.chunk_size)
    return distribution, share_of_idle([jnp.all(sides, axis=0) for sides in idle])


def _advantages(trajectory: Trajectory, reward, value, next_value, hparams, config):
    """GAE; the target is its λ-return, or with λ = 1 the Monte-Carlo return with bootstrap.

    `reward` [T, N] is what is added up: rewards or costs.
    """
    valid = trajectory.valid
    steps = (
        *(jnp.where(valid, each, 0) for each in (reward, value, next_value)),
        trajectory.terminated,
        trajectory.truncated | ~valid,
    )
    advantage, target = gae(*steps, gamma=hparams.gamma, gae_lambda=hparams.gae_lambda)
    if config.value_target == "monte_carlo":
        _, target = gae(*steps, gamma=hparams.gamma, gae_lambda=1.0)
    return advantage, target


def _normalized(advantage: jax.Array, weight: jax.Array) -> jax.Array:
    """Advantages with zero mean and unit variance; zero if all are equal up to rounding.

    NaN if the variance overflows, so that the step reports it instead of using zero advantages.
    """
    mean, deviation = weighted_mean_and_deviation(advantage, weight)
    centred = weight * (advantage - mean)
    rounding = 1e-6 * jnp.abs(mean)
    usable = deviation > rounding
    deviation = jnp.where(jnp.isfinite(deviation), deviation, jnp.nan)
    return jnp.where(usable, centred / jnp.where(usable, deviation, 1), 0)


def _arrangement(starts: SequenceStarts | None) -> Callable[[jax.Array], jax.Array]:
    """[T, N, ...] -> examples: transitions [B, ...], or sequences [N, T, ...].

    Time and environments become one axis only here. Ordered by environment, so that the
    environments of a device stay together and nothing moves.
    """

    def arrange(leaf: jax.Array) -> jax.Array:
        sequences = jnp.swapaxes(leaf, 0, 1)
        return sequences.reshape(-1, *leaf.shape[2:]) if starts is None else sequences

    return arrange


def _unflatten(leaf: jax.Array, num_steps: int) -> jax.Array:
    """[B, ...] -> [T, N, ...]."""
    return jnp.swapaxes(leaf.reshape(-1, num_steps, *leaf.shape[1:]), 0, 1)
