"""Regression of the critic."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trpo_jax.solver import trees

_OPTIMIZER = optax.scale_by_adam()


class ValueFitInfo(NamedTuple):
    """What happened in a value fit."""

    loss_before: jax.Array
    """Mean squared error on the batch before the fit."""
    loss_after: jax.Array
    """The same after it; equal to `loss_before` if the fit was rejected."""
    accepted: jax.Array
    """bool: the fitted critic is finite and was kept."""


def init_value_optimizer(params: Any) -> Any:
    """State of the critic's optimiser."""
    return _OPTIMIZER.init(params)


def fit_value(
    key: jax.Array,
    params: Any,
    opt_state: Any,
    *,
    apply: Callable[[Any, jax.Array], jax.Array],
    obs: jax.Array,
    target: jax.Array,
    weight: jax.Array,
    learning_rate: jax.Array | float,
    num_epochs: int,
    minibatch_size: int,
) -> tuple[Any, Any, ValueFitInfo]:
    """Minimise Σ w (V(obs) − target)² / Σ w by Adam over shuffled minibatches.

    `apply(params, obs)` gives values [B]; `obs` is [B, *obs_shape], `target` and `weight` are [B];
    `minibatch_size` divides B. The optimiser goes on from `opt_state`. If anything in the outcome
    is not finite, or nothing has weight, parameters and optimiser stay as they were.
    Returns (params, opt_state, `ValueFitInfo`). Kingma & Ba 2015.
    """
    batch_size = target.shape[0]
    if batch_size % minibatch_size:
        raise ValueError(f"minibatch_size={minibatch_size} does not divide the batch {batch_size}")

    table = _pack(obs, target, weight)

    def loss(candidate: Any, rows: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        row_obs, row_target, row_weight = rows
        errors = row_weight * (apply(candidate, row_obs) - row_target) ** 2
        return jnp.sum(errors) / jnp.maximum(jnp.sum(row_weight), 1e-8)

    def minibatch_step(carry: tuple[Any, Any], rows: jax.Array):
        current, optimizer = carry
        gradient = jax.grad(loss)(current, _unpack(rows, obs.shape[1:]))
        direction, optimizer = _OPTIMIZER.update(gradient, optimizer)
        return (trees.add_scaled(current, -learning_rate, direction), optimizer), None

    def epoch(carry: tuple[Any, Any, jax.Array], _):
        current, optimizer, shuffled = carry
        minibatches = shuffled.reshape(-1, minibatch_size, table.shape[-1])
        (current, optimizer), _ = jax.lax.scan(minibatch_step, (current, optimizer), minibatches)
        return (current, optimizer, shuffled[reshuffle]), None

    # Two sorts serve all epochs: if σ and τ are random permutations, so is τ ∘ σᵉ for every e.
    # The first shuffle collects a table that is spread over devices; from then on none of them
    # has to ask another, which for minibatches of some hundred rows costs less than a sum over
    # devices in each of some hundred steps.
    first_order, reshuffle = jnp.argsort(jax.random.bits(key, (2, batch_size)), axis=-1)
    carry = (params, opt_state, table[first_order])
    (fitted, optimizer, _), _ = jax.lax.scan(epoch, carry, length=num_epochs)

    before, after = loss(params, (obs, target, weight)), loss(fitted, (obs, target, weight))
    accepted = trees.all_finite((fitted, optimizer, after)) & (jnp.sum(weight) > 0)
    info = ValueFitInfo(before, jnp.where(accepted, after, before), accepted)
    return *trees.select(accepted, (fitted, optimizer), (params, opt_state)), info


def _pack(obs: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """One table [B, columns], so that shuffling is one gather."""
    columns = [obs.reshape(obs.shape[0], -1), target[:, None], weight[:, None]]
    return jnp.concatenate(columns, axis=-1)


def _unpack(rows: jax.Array, obs_shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Observations, targets and weights of some rows of the table."""
    return rows[:, :-2].reshape(-1, *obs_shape), rows[:, -2], rows[:, -1]
