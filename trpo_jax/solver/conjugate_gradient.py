"""Conjugate gradients on any pytree."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.common import trees
from trpo_jax.common.checks import require_whole_number
from trpo_jax.common.platforms import bounded_while
from trpo_jax.common.trees import Tree


class CGResult(NamedTuple):
    """What `cg_solve` returns."""

    x: Tree
    """The solution: the last good iterate, shaped like `b`."""
    residual: Tree
    """b − A x from the recurrence, shaped like `b`. It gives xᵀA x = xᵀ(b − residual) for free."""
    residual_norms: jax.Array
    """[max_iters + 1]: ‖b − A x‖ before the first and after each iteration.

    Entries after the last iteration repeat its value.
    """
    num_iters: jax.Array
    """int32: number of iterations that changed x."""
    breakdown: jax.Array
    """bool: a direction had vᵀA v ≤ 0, or a value was NaN or infinite."""
    converged: jax.Array
    """bool: ‖r‖ ≤ tol · ‖b‖ at the end. If neither this nor `breakdown`, `max_iters` ended it."""


class _Loop(NamedTuple):
    x: Tree
    residual: Tree
    direction: Tree
    inner: jax.Array
    squared_norm: jax.Array
    squared_norms: jax.Array
    iteration: jax.Array
    breakdown: jax.Array


def cg_solve(
    matvec: Callable[[Tree], Tree],
    b: Tree,
    *,
    max_iters: int,
    tol: jax.Array | float,
    preconditioner: Callable[[Tree], Tree] | None = None,
) -> CGResult:
    """Solve A x = b by conjugate gradients, with A given as a product.

    `matvec` maps a tree v shaped like `b` to A·v; A must be symmetric positive definite.
    The solve starts from zero, because a warm start biases a truncated solve. It stops after
    `max_iters` products or once ‖r‖ ≤ tol · ‖b‖. If vᵀA v ≤ 0 or a value is not finite, it keeps
    the last good x and sets `breakdown`; it never raises under jit. No gradient flows through it.
    On accelerators the products after the end are done too, in vain, so that the host need not
    look.

    `preconditioner` maps v to P⁻¹·v, with P symmetric positive definite and close to A, to reduce
    the number of iterations. `residual_norms` and `tol` still refer to the true residual.
    rᵀP⁻¹r ≤ 0 counts as a breakdown too. Raises `ValueError` if `max_iters` or `tol` is out of
    range, or if a product is not shaped like `b`.
    Hestenes & Stiefel 1952; Schulman et al. 2015, app. C; Saad 2003, alg. 9.1.
    """
    require_whole_number("max_iters", max_iters)
    if not isinstance(tol, jax.core.Tracer) and not np.all(np.asarray(tol) >= 0):
        raise ValueError(f"tol={tol} must be >= 0")
    b = jax.lax.stop_gradient(trees.as_floating(b))
    squared_norm = trees.dot(b, b)
    threshold = jax.lax.stop_gradient(jnp.asarray(tol, squared_norm.dtype) ** 2 * squared_norm)

    def precondition(residual: Tree, norm: jax.Array) -> tuple[Tree, jax.Array]:
        """P⁻¹r and rᵀP⁻¹r."""
        if preconditioner is None:
            return residual, norm
        direction = jax.lax.stop_gradient(preconditioner(residual))
        trees.require_like("preconditioner(v)", direction, b)
        return direction, trees.dot(residual, direction)

    direction, inner = precondition(b, squared_norm)
    start = _Loop(
        x=jax.tree.map(jnp.zeros_like, b),
        residual=b,
        direction=direction,
        inner=inner,
        squared_norm=squared_norm,
        squared_norms=jnp.full((max_iters + 1,), squared_norm),
        iteration=jnp.int32(0),
        breakdown=~_usable(inner) & (squared_norm != 0),
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
        return _iterate(loop, product, precondition)

    end = bounded_while(unfinished, iterate, start, max_iters)
    return CGResult(
        x=end.x,
        residual=end.residual,
        residual_norms=jnp.sqrt(end.squared_norms),
        num_iters=end.iteration,
        breakdown=end.breakdown,
        converged=end.squared_norm <= threshold,
    )


def _iterate(loop: _Loop, product: Tree, precondition: Callable[..., Any]) -> _Loop:
    """One step along the direction, given A·direction; on breakdown nothing changes."""
    curvature = trees.dot(loop.direction, product)
    usable = _usable(curvature)
    step = jnp.where(usable, loop.inner / jnp.where(usable, curvature, 1), 0)
    x = trees.add_scaled(loop.x, step, loop.direction)
    residual = trees.add_scaled(loop.residual, -step, product)
    squared_norm = trees.dot(residual, residual)
    good = usable & jnp.isfinite(squared_norm) & trees.all_finite(x)
    preconditioned, inner = precondition(residual, squared_norm)
    ratio = inner / loop.inner
    direction = trees.add_scaled(preconditioned, ratio, loop.direction)

    iteration = loop.iteration + good.astype(jnp.int32)
    position = jnp.arange(loop.squared_norms.shape[0])
    kept_norm = jnp.where(good, squared_norm, loop.squared_norm)
    return _Loop(
        x=trees.select(good, x, loop.x),
        residual=trees.select(good, residual, loop.residual),
        direction=trees.select(good, direction, loop.direction),
        inner=jnp.where(good, inner, loop.inner),
        squared_norm=kept_norm,
        squared_norms=jnp.where(position >= iteration, kept_norm, loop.squared_norms),
        iteration=iteration,
        breakdown=~good | (~_usable(inner) & (squared_norm != 0)),
    )


def _usable(number: jax.Array) -> jax.Array:
    """Whether a number that should be positive is, and finite."""
    return jnp.isfinite(number) & (number > 0)
