"""Conjugate gradients on any pytree."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.config import require_whole_number
from trpo_jax.solver import trees
from trpo_jax.solver.trees import Tree


class CGResult(NamedTuple):
    """What `cg_solve` returns."""

    x: Tree
    """The solution: the last iterate that was good. Shaped like `b`."""
    residual: Tree
    """b − A x by the recurrence, shaped like `b`; so xᵀA x = xᵀ(b − residual) without a product."""
    residual_norms: jax.Array
    """[max_iters + 1]: ‖b − A x‖ before the first and after every iteration.

    Entries after the last iteration repeat it.
    """
    num_iters: jax.Array
    """int32: iterations that changed x."""
    breakdown: jax.Array
    """bool: a direction had vᵀA v ≤ 0, or a value was not finite."""


class _Loop(NamedTuple):
    x: Tree
    residual: Tree
    direction: Tree
    squared_norm: jax.Array
    squared_norms: jax.Array
    iteration: jax.Array
    breakdown: jax.Array


def cg_solve(
    matvec: Callable[[Tree], Tree], b: Tree, *, max_iters: int, tol: jax.Array | float
) -> CGResult:
    """Solve A x = b by conjugate gradients, A given as a product.

    `matvec` maps a tree shaped like `b` to A·v and must be symmetric positive definite.
    Starts from zero: a warm start biases a truncated solve. Stops after `max_iters` products or
    once ‖r‖ ≤ tol · ‖b‖. If vᵀA v ≤ 0 or a value is not finite, keeps the last good x and sets
    `breakdown`; never raises under jit. No gradient is recorded through the loop.
    Hestenes & Stiefel 1952; Schulman et al. 2015, app. C.
    """
    require_whole_number("max_iters", max_iters)
    if not isinstance(tol, jax.core.Tracer) and not np.all(np.asarray(tol) >= 0):
        raise ValueError(f"tol={tol} must be >= 0")
    b = jax.lax.stop_gradient(trees.as_floating(b))
    squared_norm = trees.dot(b, b)
    threshold = jax.lax.stop_gradient(jnp.asarray(tol, squared_norm.dtype) ** 2 * squared_norm)

    start = _Loop(
        x=jax.tree.map(jnp.zeros_like, b),
        residual=b,
        direction=b,
        squared_norm=squared_norm,
        squared_norms=jnp.full((max_iters + 1,), squared_norm),
        iteration=jnp.int32(0),
        breakdown=~jnp.isfinite(squared_norm),
    )

    def unfinished(loop: _Loop) -> jax.Array:
        return (
            (loop.iteration < max_iters)
            & (loop.squared_norm > threshold)
            & jnp.logical_not(loop.breakdown)
        )

    def iterate(loop: _Loop) -> _Loop:
        product = jax.lax.stop_gradient(matvec(loop.direction))
        trees.require_like("matvec(v)", product, b)
        return _iterate(loop, product)

    end = jax.lax.while_loop(unfinished, iterate, start)
    return CGResult(
        x=end.x,
        residual=end.residual,
        residual_norms=jnp.sqrt(end.squared_norms),
        num_iters=end.iteration,
        breakdown=end.breakdown,
    )


def _iterate(loop: _Loop, product: Tree) -> _Loop:
    """One step along the direction, given A·direction; nothing changes if it breaks down."""
    curvature = trees.dot(loop.direction, product)
    usable = jnp.isfinite(curvature) & (curvature > 0)
    step = jnp.where(usable, loop.squared_norm / jnp.where(usable, curvature, 1), 0)
    x = trees.add_scaled(loop.x, step, loop.direction)
    residual = trees.add_scaled(loop.residual, -step, product)
    squared_norm = trees.dot(residual, residual)
    good = usable & jnp.isfinite(squared_norm) & trees.all_finite(x)
    ratio = squared_norm / loop.squared_norm
    direction = trees.add_scaled(residual, ratio, loop.direction)

    iteration = loop.iteration + good.astype(jnp.int32)
    position = jnp.arange(loop.squared_norms.shape[0])
    kept_norm = jnp.where(good, squared_norm, loop.squared_norm)
    return _Loop(
        x=trees.select(good, x, loop.x),
        residual=trees.select(good, residual, loop.residual),
        direction=trees.select(good, direction, loop.direction),
        squared_norm=kept_norm,
        squared_norms=jnp.where(position >= iteration, kept_norm, loop.squared_norms),
        iteration=iteration,
        breakdown=~good,
    )
