"""Regression of the critic."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trpo_jax.config import require_whole_number
from trpo_jax.solver import trees

Apply = Callable[[Any, jax.Array], jax.Array]

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
    """State of Adam, which goes on from fit to fit; L-BFGS has none."""
    return _OPTIMIZER.init(params)


def fit_value(
    key: jax.Array,
    params: Any,
    opt_state: Any,
    *,
    apply: Apply,
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
    target = _checked_target(apply, params, obs, target, weight)
    batch_size = target.shape[0]
    require_whole_number("num_epochs", num_epochs, smallest=0)
    require_whole_number("minibatch_size", minibatch_size)
    if batch_size % minibatch_size:
        raise ValueError(f"minibatch_size={minibatch_size} does not divide the batch {batch_size}")

    table = _pack(obs, target, weight)

    def minibatch_step(carry: tuple[Any, Any], rows: jax.Array):
        current, optimizer = carry
        gradient = jax.grad(_loss)(current, apply, *_unpack(rows, obs.shape[1:]))
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

    before, after = (_loss(each, apply, obs, target, weight) for each in (params, fitted))
    accepted = trees.all_finite((fitted, optimizer, after)) & (jnp.sum(weight) > 0)
    info = ValueFitInfo(before, jnp.where(accepted, after, before), accepted)
    return *trees.select(accepted, (fitted, optimizer), (params, opt_state)), info


def fit_value_lbfgs(
    params: Any,
    *,
    apply: Apply,
    obs: jax.Array,
    target: jax.Array,
    weight: jax.Array,
    num_iterations: int,
) -> tuple[Any, ValueFitInfo]:
    """Minimise Σ w (V(obs) − target)² / Σ w by L-BFGS on the whole batch.

    Arguments as those of `fit_value`. Every fit begins without a memory of curvature: that of the
    last one belongs to other targets. Step lengths satisfy the strong Wolfe conditions. If the
    outcome is not finite or its loss is higher, or nothing has weight, the parameters stay.
    Returns (params, `ValueFitInfo`). Liu & Nocedal 1989; the authors of TRPO fitted theirs so.
    """
    target = _checked_target(apply, params, obs, target, weight)
    require_whole_number("num_iterations", num_iterations, smallest=0)
    flat, unravel = trees.ravel(params)
    optimizer = optax.lbfgs()

    def loss(candidate: jax.Array) -> jax.Array:
        return _loss(unravel(candidate), apply, obs, target, weight)

    value_and_gradient = optax.value_and_grad_from_state(loss)

    def iterate(carry: tuple[jax.Array, Any], _):
        current, memory = carry
        value, gradient = value_and_gradient(current, state=memory)
        step, memory = optimizer.update(
            gradient, memory, current, value=value, grad=gradient, value_fn=loss
        )
        return (optax.apply_updates(current, step), memory), None

    start = flat, optimizer.init(flat)
    (fitted, _), _ = jax.lax.scan(iterate, start, length=num_iterations)

    before, after = loss(flat), loss(fitted)
    accepted = trees.all_finite(fitted) & (after <= before) & (jnp.sum(weight) > 0)
    info = ValueFitInfo(before, jnp.where(accepted, after, before), accepted)
    return trees.select(accepted, unravel(fitted), params), info


def _checked_target(
    apply: Apply, params: Any, obs: jax.Array, target: jax.Array, weight: jax.Array
) -> jax.Array:
    """The targets, 0 where they do not count: there they need not be finite.

    Raises `ValueError` unless there are B values, targets and weights for B observations.
    """
    values = jax.eval_shape(apply, params, obs).shape
    for name, shape in (("target", target.shape), ("weight", weight.shape), ("apply", values)):
        if shape != obs.shape[:1]:
            raise ValueError(
                f"{name} gives shape {shape} for {obs.shape[0]} observations; it must be "
                f"[{obs.shape[0]}]: squeeze it"
            )
    return jnp.where(weight > 0, target, 0)


def _loss(
    params: Any, apply: Apply, obs: jax.Array, target: jax.Array, weight: jax.Array
) -> jax.Array:
    """Σ w (V(obs) − target)² / Σ w."""
    errors = weight * (apply(params, obs) - target) ** 2
    return jnp.sum(errors) / jnp.maximum(jnp.sum(weight), 1e-8)


def _pack(obs: jax.Array, target: jax.Array, weight: jax.Array) -> jax.Array:
    """One table [B, columns], so that shuffling is one gather."""
    columns = [obs.reshape(obs.shape[0], -1), target[:, None], weight[:, None]]
    return jnp.concatenate(columns, axis=-1)


def _unpack(rows: jax.Array, obs_shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Observations, targets and weights of some rows of the table."""
    return rows[:, :-2].reshape(-1, *obs_shape), rows[:, -2], rows[:, -1]
