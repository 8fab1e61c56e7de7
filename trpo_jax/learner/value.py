"""Regression of the critic."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trpo_jax.common import trees
from trpo_jax.common.checks import require_whole_number

Apply = Callable[[Any, Any], jax.Array]
Obs = Any

_OPTIMIZER = optax.scale_by_adam()


class ValueFitInfo(NamedTuple):
    """The report of a value fit, in scalars."""

    loss_before: jax.Array
    """Mean squared error on the batch before the fit."""
    loss_after: jax.Array
    """The same after the fit; equal to `loss_before` if the fit was rejected."""
    accepted: jax.Array
    """bool: whether the fitted critic was kept."""


def init_value_optimizer(params: Any) -> Any:
    """Adam's initial state, which is carried from fit to fit."""
    return _OPTIMIZER.init(params)


def fit_value(
    key: jax.Array,
    params: Any,
    opt_state: Any,
    *,
    apply: Apply,
    obs: Obs,
    target: jax.Array,
    weight: jax.Array,
    learning_rate: jax.Array | float,
    num_epochs: int,
    minibatch_size: int,
) -> tuple[Any, Any, ValueFitInfo]:
    """Minimise Σ w (V(obs) − target)² / Σ w by Adam over shuffled minibatches.

    `apply(params, obs)` gives values [B]; `obs` is an array or a tree of [B, ...], `target` and
    `weight` are [B]; `minibatch_size` must divide B. An example may be a sequence: then values,
    target and weight are [B, T]. The optimiser continues from `opt_state`, with steps of
    `learning_rate`, for `num_epochs` passes; `key` shuffles. If the result is not finite, or all
    weights are 0, parameters and optimiser state are unchanged. Returns (params, opt_state,
    `ValueFitInfo`). Raises `ValueError` if shapes or numbers do not fit. Kingma & Ba 2015.
    """
    target = _checked_target(apply, params, obs, target, weight)
    batch_size = target.shape[0]
    require_whole_number("num_epochs", num_epochs, smallest=0)
    require_whole_number("minibatch_size", minibatch_size)
    if batch_size % minibatch_size:
        raise ValueError(f"minibatch_size={minibatch_size} does not divide the batch {batch_size}")

    table, unpack = _pack(obs, target, weight)

    def minibatch_step(carry: tuple[Any, Any], rows: Any):
        current, optimizer = carry
        gradient = jax.grad(_loss)(current, apply, *unpack(rows))
        direction, optimizer = _OPTIMIZER.update(gradient, optimizer)
        return (trees.add_scaled(current, -learning_rate, direction), optimizer), None

    def epoch(carry: tuple[Any, Any, Any], _):
        current, optimizer, shuffled = carry
        minibatches = jax.tree.map(
            lambda leaf: leaf.reshape(-1, minibatch_size, *leaf.shape[1:]), shuffled
        )
        (current, optimizer), _ = jax.lax.scan(minibatch_step, (current, optimizer), minibatches)
        return (current, optimizer, trees.take(shuffled, reshuffle)), None

    # Two sorts serve all epochs: if σ and τ are random permutations, so is τ ∘ σᵉ for every e.
    # The first shuffle collects a table that is split over devices; after that no device needs
    # another. With minibatches of some hundred rows this costs less than a sum over devices in
    # each of some hundred steps.
    first_order, reshuffle = jnp.argsort(jax.random.bits(key, (2, batch_size)), axis=-1)
    carry = (params, opt_state, trees.take(table, first_order))
    (fitted, optimizer, _), _ = jax.lax.scan(epoch, carry, length=num_epochs)

    before, after = (_loss(each, apply, obs, target, weight) for each in (params, fitted))
    accepted = trees.all_finite((fitted, optimizer, after)) & (jnp.sum(weight) > 0)
    info = ValueFitInfo(before, jnp.where(accepted, after, before), accepted)
    return *trees.select(accepted, (fitted, optimizer), (params, opt_state)), info


def fit_value_lbfgs(
    params: Any,
    *,
    apply: Apply,
    obs: Obs,
    target: jax.Array,
    weight: jax.Array,
    num_iterations: int,
) -> tuple[Any, ValueFitInfo]:
    """Minimise Σ w (V(obs) − target)² / Σ w by L-BFGS on the whole batch, in `num_iterations`.

    Arguments, and what raises `ValueError`, are as in `fit_value`. Every fit starts with an empty
    curvature memory, because that of the last fit belongs to other targets. Step lengths satisfy
    the strong Wolfe conditions. If the result is not finite or its loss is higher, or all weights
    are 0, the parameters are unchanged. Returns (params, `ValueFitInfo`). Liu & Nocedal 1989; the
    authors of TRPO used L-BFGS too.
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
    apply: Apply, params: Any, obs: Obs, target: jax.Array, weight: jax.Array
) -> jax.Array:
    """The targets, with 0 where the weight is 0: there they need not be finite.

    Raises `ValueError` unless there are B values, targets and weights for B observations, or
    [B, T] for sequences.
    """
    values = jax.eval_shape(apply, params, obs).shape
    rows = jax.tree.leaves(obs)[0].shape[0]
    wanted = (rows, *weight.shape[1:])
    for name, shape in (("target", target.shape), ("weight", weight.shape), ("apply", values)):
        if shape != wanted:
            raise ValueError(
                f"{name} gives shape {shape} for {rows} observations; it must be {list(wanted)}: "
                "squeeze it"
            )
    return jnp.where(weight > 0, target, 0)


def _loss(params: Any, apply: Apply, obs: Obs, target: jax.Array, weight: jax.Array) -> jax.Array:
    """Σ w (V(obs) − target)² / Σ w."""
    errors = weight * (apply(params, obs) - target) ** 2
    return jnp.sum(errors) / jnp.maximum(jnp.sum(weight), 1e-8)


def _pack(obs: Obs, target: jax.Array, weight: jax.Array) -> tuple[Any, Callable[[Any], tuple]]:
    """(table, others), leaves [B, ...] to be shuffled, and the inverse for a subset of rows.

    All leaves of the floating type are packed side by side in one table, so that shuffling is one
    gather. Other leaves, such as uint8 images, stay separate.
    """
    leaves = jax.tree.leaves((obs, target, weight))
    structure: Any = jax.tree.structure((obs, target, weight))
    packed = [i for i, leaf in enumerate(leaves) if leaf.dtype == target.dtype]
    columns = [leaves[i].reshape(leaves[i].shape[0], -1) for i in packed]
    ends = np.cumsum([column.shape[1] for column in columns])[:-1]
    others = [leaf for i, leaf in enumerate(leaves) if i not in packed]

    def unpack(rows: tuple[jax.Array, list[jax.Array]]) -> tuple:
        parts = dict(zip(packed, jnp.split(rows[0], ends, axis=-1), strict=True))
        rest = iter(rows[1])
        restored = [
            parts[i].reshape(-1, *leaf.shape[1:]) if i in parts else next(rest)
            for i, leaf in enumerate(leaves)
        ]
        return structure.unflatten(restored)

    return (jnp.concatenate(columns, axis=-1), others), unpack
