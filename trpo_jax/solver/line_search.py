"""Backtracking line search: a bound on the KL that always holds, and an acceptance rule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.common.checks import require_whole_number
from trpo_jax.common.platforms import by_platform
from trpo_jax.common.trees import Tree

Accept = Callable[..., jax.Array]
"""(improvement, kl, step_fraction, *rest) -> bool; `rest` is the rest of `evaluate`'s results."""

UNTRIED = -1.0
"""The KL on record of a candidate that was not tried. Not NaN, which `jax_debug_nans` stops at."""


class LineSearchResult(NamedTuple):
    """What `line_search` returns; scalars unless said."""

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
    """[max_backtracks + 1]: KL of each candidate; −1 for those not tried."""
    rest: Any = ()
    """A list of what else `evaluate` returned for the accepted candidate; zeros if none was."""


class _Attempt(NamedTuple):
    params: Tree
    accepted: jax.Array
    kl: jax.Array
    improvement: jax.Array
    rest: Any


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
    after `max_backtracks` shrinkages, the old parameters stay, bit for bit. On CPUs the candidates
    are tried in turn, on accelerators all at once. Raises `ValueError` for numbers out of range.
    Schulman et al. 2015, app. C.
    """
    require_whole_number("max_backtracks", max_backtracks, smallest=0)
    accept = accept or sufficient_improvement(expected_improvement, accept_ratio)
    params, full_step = trees.as_floating(params), trees.as_floating(full_step)
    trees.require_like("full_step", full_step, params)
    outcome = jax.eval_shape(lambda candidate: trees.as_floating(evaluate(candidate)), params)
    backtrack_factor = jnp.asarray(backtrack_factor, outcome[1].dtype)

    @jax.jit  # so that it is traced once for all platforms
    def attempt(fraction: jax.Array) -> _Attempt:
        candidate = trees.add_scaled(params, fraction, full_step)
        improvement, kl, *rest = trees.as_floating(evaluate(candidate))
        accepted = (
            (kl <= max_kl)
            & accept(improvement, kl, fraction, *rest)
            & jnp.isfinite(improvement)
            & trees.all_finite(candidate)
        )
        return _Attempt(candidate, accepted, kl, improvement, rest)

    def one_by_one(factor: jax.Array) -> LineSearchResult:
        kl, improvement, *rest = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), outcome
        )
        nothing = _Attempt(params, jnp.bool_(False), kl, improvement, rest)
        return _one_by_one(attempt, factor, nothing, max_backtracks)

    def all_at_once(factor: jax.Array) -> LineSearchResult:
        return _all_at_once(attempt, factor, params, full_step, max_backtracks)

    return by_platform(one_by_one, all_at_once, backtrack_factor)


def _one_by_one(
    attempt: Callable[[jax.Array], _Attempt],
    factor: jax.Array,
    nothing: _Attempt,
    max_backtracks: int,
) -> LineSearchResult:
    """Try the candidates in turn; `nothing` is the outcome without a step."""
    start = _Loop(
        tries=jnp.int32(0),
        fraction=jnp.ones((), nothing.kl.dtype),
        accepted=nothing.accepted,
        params=nothing.params,
        kl=nothing.kl,
        improvement=nothing.improvement,
        candidate_kls=jnp.full((max_backtracks + 1,), UNTRIED, nothing.kl.dtype),
        rest=nothing.rest,
    )

    def unfinished(loop: _Loop) -> jax.Array:
        return jnp.logical_not(loop.accepted) & (loop.tries <= max_backtracks)

    def advance(loop: _Loop) -> _Loop:
        tried = attempt(loop.fraction)
        return _Loop(
            tries=loop.tries + 1,
            fraction=jnp.where(tried.accepted, loop.fraction, loop.fraction * factor),
            accepted=tried.accepted,
            params=trees.select(tried.accepted, tried.params, nothing.params),
            kl=jnp.where(tried.accepted, tried.kl, 0),
            improvement=jnp.where(tried.accepted, tried.improvement, 0),
            candidate_kls=loop.candidate_kls.at[loop.tries].set(tried.kl),
            rest=_where(tried.accepted, tried.rest),
        )

    return _result(jax.lax.while_loop(unfinished, advance, start))


def _all_at_once(
    attempt: Callable[[jax.Array], _Attempt],
    factor: jax.Array,
    params: Tree,
    full_step: Tree,
    max_backtracks: int,
) -> LineSearchResult:
    """The same result from one batched pass over all candidates, for accelerators.

    Its memory is that of a forward pass times the number of candidates.
    """
    fractions = factor ** jnp.arange(max_backtracks + 1, dtype=factor.dtype)
    tried = jax.vmap(attempt)(fractions)
    accepted, first = jnp.any(tried.accepted), jnp.argmax(tried.accepted)
    number = jnp.where(accepted, first, max_backtracks).astype(jnp.int32)
    untried = jnp.arange(max_backtracks + 1) > number
    candidate = trees.add_scaled(params, fractions[number], full_step)
    return LineSearchResult(
        params=trees.select(accepted, candidate, params),
        accepted=accepted,
        step_fraction=jnp.where(accepted, fractions[number], 0),
        num_backtracks=number,
        kl=jnp.where(accepted, tried.kl[number], 0),
        improvement=jnp.where(accepted, tried.improvement[number], 0),
        candidate_kls=jnp.where(untried, UNTRIED, tried.kl),
        rest=_where(accepted, jax.tree.map(lambda leaf: leaf[number], tried.rest)),
    )


def _where(accepted: jax.Array, rest: Any) -> Any:
    """`rest`, or zeros."""
    return jax.tree.map(lambda leaf: jnp.where(accepted, leaf, 0), rest)


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
        candidate_kls=jnp.full(max_backtracks + 1, UNTRIED, kl.dtype).at[0].set(kl),
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
