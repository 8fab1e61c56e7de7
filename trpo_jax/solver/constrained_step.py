"""One trust-region step that also obeys a constraint: CPO's step, for any objective."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.common.trees import Tree
from trpo_jax.solver.conjugate_gradient import CGResult
from trpo_jax.solver.constrained_optimum import (
    ConstrainedOptimum,
    constrained_optimum,
    unconstrained_step,
)
from trpo_jax.solver.info import ConstraintInfo, StepStatus, TrustRegionInfo
from trpo_jax.solver.line_search import Accept, LineSearchResult, sufficient_improvement
from trpo_jax.solver.local_model import LocalModel
from trpo_jax.solver.natural_step import (
    Dtype,
    Number,
    Preconditioner,
    Proposal,
    natural_direction,
)
from trpo_jax.solver.objective import Curvature, Objective, evaluation, require_curvature
from trpo_jax.solver.trust_region import search_along, step_info


class ConstrainedModel(NamedTuple):
    """A local model with one constraint: C(θ + Δ) ≈ c + bᵀΔ ≤ 0."""

    model: LocalModel
    """The objective and the divergence; its gradient is g."""
    slope: jax.Array
    """b, the gradient of the constraint, as one vector."""
    violation: jax.Array
    """c."""


def constrained_step(
    objective: Objective,
    params: Tree,
    batch: Tree,
    *,
    violation: Number,
    max_kl: Number,
    damping: Number = 0.1,
    cg_iterations: int = 10,
    cg_tol: Number = 1e-8,
    slope_cg_tol: Number | None = None,
    curvature: Curvature = "gauss_newton",
    chunk_size: int | None = None,
    dtype: Dtype = "float32",
    preconditioner: Preconditioner | None = None,
    accept_ratio: Number = 0.0,
    backtrack_factor: Number = 0.8,
    max_backtracks: int = 10,
) -> tuple[Tree, TrustRegionInfo]:
    """Improve `params` by one CPO step on `batch`, or return them unchanged, bit for bit.

    maximise L(θ) subject to D(θ) ≤ δ and c + C(θ) ≤ 0, with C the mean of
    `objective.constraints`, one array [B] that is zero where the step starts, and c `violation`.
    The full step solves the problem with L and C linear and D quadratic (`constrained_optimum`);
    the line search then takes the first candidate with

        D ≤ δ,   C ≤ max(−c, 0),   and   L > 0 if c ≤ 0,   C < 0 if c > 0.

    So while the constraint is violated the step must lower it, whatever becomes of L. Without a
    gradient of C the step is TRPO's, and accepted as such unless C rises. `preconditioner` speeds
    up both solves. Keywords are those of `trust_region_step` and `line_search`; `slope_cg_tol` is
    the tolerance of the second solve, by default `cg_tol`: a loose one costs some of L, but not the
    constraint, which the step obeys to first order at any tolerance. What happened is in
    `TrustRegionInfo.constraint`. Achiam et al. 2017.
    """
    model = _constrained_model(
        objective, params, batch, violation, curvature=curvature, chunk_size=chunk_size
    )
    solved_gradient, solved_slope = _solve_both(
        model,
        max_kl,
        (cg_tol, cg_tol if slope_cg_tol is None else slope_cg_tol),
        damping=damping,
        cg_iterations=cg_iterations,
        dtype=dtype,
        preconditioner=preconditioner,
    )
    gradient = model.model.gradient
    optimum = constrained_optimum(
        gradient, model.slope, solved_gradient, solved_slope,
        violation=model.violation, max_kl=max_kl,
    )  # fmt: skip
    blocked = _reason_not_to_step(model, solved_gradient, solved_slope, optimum)
    proposal = Proposal(
        step=jnp.where(blocked == 0, optimum.step, 0),
        predicted_improvement=trees.dot(gradient, optimum.step),
        blocked=blocked,
        multiplier=optimum.multiplier,
        solution=solved_gradient,
    )
    found = search_along(
        model.model,
        proposal,
        search=True,
        max_kl=max_kl,
        accept=acceptance(
            model.violation,
            has_slope=trees.dot(model.slope, model.slope) > 0,
            otherwise=sufficient_improvement(proposal.predicted_improvement, accept_ratio),
        ),
        backtrack_factor=backtrack_factor,
        max_backtracks=max_backtracks,
    )
    info = step_info(model.model, proposal, found, damping)
    return found.params, info._replace(constraint=_report(model, optimum, solved_slope, found))


def acceptance(
    violation: jax.Array, *, has_slope: jax.Array | bool = True, otherwise: Accept
) -> Accept:
    """CPO's rule for `line_search`, whose `evaluate` returns (L, D, C).

    C ≤ max(−c, 0); and C < 0 where c = `violation` > 0 and the constraint `has_slope`, elsewhere
    the rule `otherwise`. NaN is rejected.
    """
    lowering = (violation > 0) & has_slope

    def accept(improvement: jax.Array, kl: jax.Array, step_fraction: jax.Array, change: jax.Array):
        better = jnp.where(lowering, change < 0, otherwise(improvement, kl, step_fraction))
        return (change <= jnp.maximum(-violation, 0)) & better

    return accept


def _constrained_model(
    objective: Objective,
    params: Tree,
    batch: Tree,
    violation: Number,
    *,
    curvature: Curvature,
    chunk_size: int | None,
) -> ConstrainedModel:
    """Both gradients, through one linearisation."""
    require_curvature(curvature, objective)
    if objective.constraints is None:
        raise ValueError("objective.constraints=None; a constrained step needs an array [B]")
    evaluate = evaluation(objective, batch, chunk_size=chunk_size)

    def both(candidate: Tree) -> jax.Array:
        gain, _, change = evaluate(candidate)
        if not isinstance(change, jax.Array):
            raise ValueError(
                "objective.constraints must return one array [B], not a tree of them; sum them"
            )
        return jnp.stack([gain, change])

    with jax.default_matmul_precision("highest"):
        values, pull = jax.vjp(both, params)
        which = jnp.eye(2, dtype=values.dtype)
        rows = jax.vmap(lambda row: trees.ravel(pull(row)[0])[0])(which)
    model = LocalModel(objective, params, batch, rows[0], curvature, chunk_size)
    return ConstrainedModel(model, rows[1], jnp.asarray(violation, rows.dtype))


def _solve_both(
    model: ConstrainedModel, max_kl: Number, tolerances: tuple[Number, Number], **settings: object
) -> tuple[CGResult, CGResult]:
    """x_g and x_b, one after the other: side by side, products with both cost as much as twice one.

    Where TRPO's step satisfies the constraint it is the optimum, and x_b is not needed: its solve
    has the right side 0 and takes no iteration.
    """

    def solve(right_side: jax.Array, tolerance: Number) -> CGResult:
        there = model.model._replace(gradient=right_side)
        return natural_direction(there, cg_tol=tolerance, **settings)  # type: ignore[arg-type]

    with jax.default_matmul_precision("highest"):
        solved_gradient = solve(model.model.gradient, tolerances[0])
        step, curvature = unconstrained_step(model.model.gradient, solved_gradient, max_kl)
        change = trees.dot(model.slope, step)
        satisfied = (curvature > 0) & (model.violation + change <= 0)
        solved_slope = solve(jnp.where(satisfied, 0, model.slope), tolerances[1])
    return solved_gradient, solved_slope


def _reason_not_to_step(
    model: ConstrainedModel,
    solved_gradient: CGResult,
    solved_slope: CGResult,
    optimum: ConstrainedOptimum,
) -> jax.Array:
    """0, or the `StepStatus` that forbids a step."""
    gradient, slope = model.model.gradient, model.slope
    curvatures = jnp.stack(
        [
            trees.dot(each.x, right_side - each.residual)
            for right_side, each in ((gradient, solved_gradient), (slope, solved_slope))
        ]
    )
    solved = jnp.stack([each.residual_norms[0] > 0 for each in (solved_gradient, solved_slope)])
    lowering = (trees.dot(slope, slope) > 0) & (model.violation > 0)
    finite = trees.all_finite((gradient, slope, model.violation, curvatures, optimum.step))
    reason = jnp.where(jnp.any(solved & ~(curvatures > 0)), StepStatus.BAD_CURVATURE, 0)
    reason = jnp.where(solved[0] | lowering, reason, StepStatus.ZERO_GRADIENT)
    return jnp.where(finite, reason, StepStatus.NOT_FINITE)


def _report(
    model: ConstrainedModel,
    optimum: ConstrainedOptimum,
    solved_slope: CGResult,
    found: LineSearchResult,
) -> ConstraintInfo:
    share = jnp.where(found.accepted, found.step_fraction, 1)
    norms = solved_slope.residual_norms
    return ConstraintInfo(
        violation=model.violation,
        change=found.rest[0],
        predicted_change=share * trees.dot(model.slope, optimum.step),
        multiplier=optimum.constraint_multiplier,
        case=optimum.case,
        gradient_norm=trees.norm(model.slope),
        cg_residual=jnp.where(norms[0] > 0, norms[-1] / jnp.where(norms[0] > 0, norms[0], 1), 0),
    )
