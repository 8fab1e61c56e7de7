"""Backtracking line search with two inequalities."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.config import require_whole_number
from trpo_jax.solver import trees
from trpo_jax.solver.trees import Tree


class LineSearchResult(NamedTuple):
    """What `line_search` returns."""

    params: Tree
    """The accepted candidate, or the given parameters bit for bit."""
    accepted: jax.Array
    """bool: whether some candidate satisfied both inequalities."""
    step_fraction: jax.Array
    """β^j of the accepted candidate; 0 if none was."""
    num_backtracks: jax.Array
    """int32: times the step was shrunk, j; `max_backtracks` if none was accepted."""
    kl: jax.Array
    """KL of the accepted candidate; 0 if none was: the policy did not move."""
    improvement: jax.Array
    """Improvement of the accepted candidate; 0 if none was."""
    candidate_kls: jax.Array
    """[max_backtracks + 1]: KL of every candidate tried; NaN where none was tried."""


class _Loop(NamedTuple):
    tries: jax.Array
    fraction: jax.Array
    accepted: jax.Array
    params: Tree
    kl: jax.Array
    improvement: jax.Array
    candidate_kls: jax.Array


def line_search(
    evaluate: Callable[[Tree], tuple[jax.Array, jax.Array]],
    params: Tree,
    full_step: Tree,
    *,
    max_kl: jax.Array | float,
    expected_improvement: jax.Array | float = 0.0,
    accept_ratio: jax.Array | float = 0.0,
    backtrack_factor: jax.Array | float = 0.8,
    max_backtracks: int = 10,
) -> LineSearchResult:
    """Take the first of params + β^j · full_step, j = 0, 1, … that is an improvement within reach.

    A candidate is accepted if  kl ≤ max_kl,  improvement > 0  and
    improvement ≥ accept_ratio · β^j · expected_improvement,  where
    `evaluate(candidate) -> (improvement, kl)` and `expected_improvement` is that of the full step.
    Not-a-number compares false, so it loses; so does a candidate whose improvement or parameters
    are not finite. After `max_backtracks` shrinkages the old parameters stay, bit for bit.
    Schulman et al. 2015, app. C; the ratio test is Armijo's.
    """
    require_whole_number("max_backtracks", max_backtracks, smallest=0)
    params, full_step = trees.as_floating(params), trees.as_floating(full_step)
    trees.require_like("full_step", full_step, params)
    improvement_shape, kl_shape = jax.eval_shape(
        lambda candidate: trees.as_floating(evaluate(candidate)), params
    )
    backtrack_factor = jnp.asarray(backtrack_factor, kl_shape.dtype)

    start = _Loop(
        tries=jnp.int32(0),
        fraction=jnp.ones((), kl_shape.dtype),
        accepted=jnp.bool_(False),
        params=params,
        kl=jnp.zeros((), kl_shape.dtype),
        improvement=jnp.zeros((), improvement_shape.dtype),
        candidate_kls=jnp.full((max_backtracks + 1,), jnp.nan, kl_shape.dtype),
    )

    def unfinished(loop: _Loop) -> jax.Array:
        return jnp.logical_not(loop.accepted) & (loop.tries <= max_backtracks)

    def attempt(loop: _Loop) -> _Loop:
        candidate = trees.add_scaled(params, loop.fraction, full_step)
        improvement, kl = trees.as_floating(evaluate(candidate))
        accepted = (
            (kl <= max_kl)
            & (improvement > 0)
            & jnp.isfinite(improvement)
            & (improvement >= accept_ratio * loop.fraction * expected_improvement)
            & trees.all_finite(candidate)
        )
        return _Loop(
            tries=loop.tries + 1,
            fraction=jnp.where(accepted, loop.fraction, loop.fraction * backtrack_factor),
            accepted=accepted,
            params=trees.select(accepted, candidate, params),
            kl=jnp.where(accepted, kl, 0),
            improvement=jnp.where(accepted, improvement, 0),
            candidate_kls=loop.candidate_kls.at[loop.tries].set(kl),
        )

    return _result(jax.lax.while_loop(unfinished, attempt, start))


def _result(end: _Loop) -> LineSearchResult:
    return LineSearchResult(
        params=end.params,
        accepted=end.accepted,
        step_fraction=jnp.where(end.accepted, end.fraction, 0),
        num_backtracks=jnp.maximum(end.tries - 1, 0),
        kl=end.kl,
        improvement=end.improvement,
        candidate_kls=end.candidate_kls,
    )
