"""Backtracking line search: a bound on the KL that always holds, and an acceptance rule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.common.checks import require_whole_number
from trpo_jax.common.trees import Tree

Accept = Callable[..., jax.Array]
"""(improvement, kl, step_fraction, *rest) -> bool; `rest` is the rest of `evaluate`'s results."""


class LineSearchResult(NamedTuple):
    """What `line_search` returns."""

    params: Tree
    """The accepted candidate, or the given parameters, bit for bit."""
    accepted: jax.Array
    """bool: whether a candidate was accepted."""
    step_fraction: jax.Array
    """β^j of the accepted candidate; 0 if none was."""
    num_backtracks: jax.Array
    """int32: j, how many times the step was shrunk; `max_backtracks` if none was accepted."""
    kl: jax.Array
    """KL of the accepted candidate; 0 if none was, since the parameters did not move."""
    improvement: jax.Array
    """Improvement of the accepted candidate; 0 if none was."""
    candidate_kls: jax.Array
    """[max_backtracks + 1]: KL of each candidate; NaN for those not tried."""
    rest: Any = ()
    """A list of what else `evaluate` returned for the accepted candidate; zeros if none was."""


class _Loop(NamedTuple):
    tries: jax.Array
    fraction: jax.Array
    accepted: jax.Array
    params: Tree
    kl: jax.Array
    improvement: jax.Array
    candidate_kls: jax.Array
    rest: Any


def sufficient_improvement(
    expected_improvement: jax.Array | float = 0.0, accept_ratio: jax.Array | float = 0.0
) -> Accept:
    """The usual rule: improvement > 0 and improvement ≥ accept_ratio · β^j · expected_improvement.

    `expected_improvement` refers to the full step; the second test is Armijo's.
    """

    def accept(improvement: jax.Array, kl: jax.Array, step_fraction: jax.Array, *_: Any):
        del kl
        enough = improvement >= accept_ratio * step_fraction * expected_improvement
        return (improvement > 0) & enough

    return accept


def line_search(
    evaluate: Callable[[Tree], tuple[Any, ...]],
    params: Tree,
    full_step: Tree,
    *,
    max_kl: jax.Array | float,
    expected_improvement: jax.Array | float = 0.0,
    accept_ratio: jax.Array | float = 0.0,
    accept: Accept | None = None,
    backtrack_factor: jax.Array | float = 0.8,
    max_backtracks: int = 10,
) -> LineSearchResult:
    """Take the first acceptable candidate params + β^j · full_step, j = 0, 1, …

    A candidate is accepted if  kl ≤ max_kl,  improvement > 0  and
    improvement ≥ accept_ratio · β^j · expected_improvement,  where
    `evaluate(candidate) -> (improvement, kl)`, β is `backtrack_factor` and `expected_improvement`
    refers to the full step. `accept(improvement, kl, step_fraction, *rest) -> bool` replaces the
    two tests of the improvement; `rest` is whatever else `evaluate` returns, such as costs.
    kl ≤ max_kl and finite values are required in any case. NaN compares false and so is rejected,
    as is a candidate whose improvement or parameters are not finite. If no candidate is accepted
    after `max_backtracks` shrinkages, the old parameters stay, bit for bit.
    Schulman et al. 2015, app. C.
    """
    require_whole_number("max_backtracks", max_backtracks, smallest=0)
    accept = accept or sufficient_improvement(expected_improvement, accept_ratio)
    params, full_step = trees.as_floating(params), trees.as_floating(full_step)
    trees.require_like("full_step", full_step, params)
    improvement_shape, kl_shape, *rest_shapes = jax.eval_shape(
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
        rest=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), rest_shapes),
    )

    def unfinished(loop: _Loop) -> jax.Array:
        return jnp.logical_not(loop.accepted) & (loop.tries <= max_backtracks)

    def attempt(loop: _Loop) -> _Loop:
        candidate = trees.add_scaled(params, loop.fraction, full_step)
        improvement, kl, *rest = trees.as_floating(evaluate(candidate))
        accepted = (
            (kl <= max_kl)
            & accept(improvement, kl, loop.fraction, *rest)
            & jnp.isfinite(improvement)
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
            rest=jax.tree.map(lambda leaf: jnp.where(accepted, leaf, 0), rest),
        )

    return _result(jax.lax.while_loop(unfinished, attempt, start))


def untested_step(
    evaluate: Callable[[Tree], tuple[Any, ...]],
    params: Tree,
    full_step: Tree,
    *,
    allowed: jax.Array | bool = True,
    max_backtracks: int = 10,
) -> LineSearchResult:
    """Take the full step untested, if it is finite: the natural policy gradient.

    If not `allowed`, no step is taken. `candidate_kls` is as long as in `line_search`. Kakade 2001.
    """
    candidate = trees.add_scaled(params, 1.0, full_step)
    improvement, kl, *_ = evaluate(candidate)
    accepted = allowed & trees.all_finite((candidate, improvement, kl))
    return LineSearchResult(
        params=trees.select(accepted, candidate, params),
        accepted=accepted,
        step_fraction=accepted.astype(kl.dtype),
        num_backtracks=jnp.int32(0),
        kl=jnp.where(accepted, kl, 0),
        improvement=jnp.where(accepted, improvement, 0),
        candidate_kls=jnp.full(max_backtracks + 1, jnp.nan, kl.dtype).at[0].set(kl),
    )


def _result(end: _Loop) -> LineSearchResult:
    return LineSearchResult(
        params=end.params,
        accepted=end.accepted,
        step_fraction=jnp.where(end.accepted, end.fraction, 0),
        num_backtracks=jnp.maximum(end.tries - 1, 0),
        kl=end.kl,
        improvement=end.improvement,
        candidate_kls=end.candidate_kls,
        rest=end.rest,
    )
