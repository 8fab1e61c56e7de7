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
    is not finite, parameters and optimiser stay as they were.
    Returns (params, opt_state, `ValueFitInfo`). Kingma & Ba 2015.
    """
    batch_size = target.shape[0]
    if batch_size % minibatch_size:
        raise ValueError(f"minibatch_size={minibatch_size} does not divide the batch {batch_size}")

    def loss(candidate: Any, rows: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        row_obs, row_target, row_weight = rows
        errors = row_weight * (apply(candidate, row_obs) - row_target) ** 2
        return jnp.sum(errors) / jnp.maximum(jnp.sum(row_weight), 1e-8)

    def minibatch_step(carry: tuple[Any, Any], index: jax.Array):
        current, optimizer = carry
        rows = jax.tree.map(lambda leaf: leaf[index], (obs, target, weight))
        gradient = jax.grad(loss)(current, rows)
        direction, optimizer = _OPTIMIZER.update(gradient, optimizer)
        return (trees.add_scaled(current, -learning_rate, direction), optimizer), None

    def epoch(carry: tuple[Any, Any], epoch_key: jax.Array):
        order = jax.random.permutation(epoch_key, batch_size).reshape(-1, minibatch_size)
        return jax.lax.scan(minibatch_step, carry, order)

    keys = jax.random.split(key, num_epochs)
    (fitted, optimizer), _ = jax.lax.scan(epoch, (params, opt_state), keys)

    before, after = loss(params, (obs, target, weight)), loss(fitted, (obs, target, weight))
    accepted = trees.all_finite((fitted, optimizer, after))
    info = ValueFitInfo(before, jnp.where(accepted, after, before), accepted)
    return (
        trees.select(accepted, fitted, params),
        trees.select(accepted, optimizer, opt_state),
        info,
    )
