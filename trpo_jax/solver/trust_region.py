"""One trust-region step: gradient, natural direction, step length, line search."""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.solver import trees
from trpo_jax.solver.conjugate_gradient import CGResult, cg_solve
from trpo_jax.solver.line_search import LineSearchResult, line_search
from trpo_jax.solver.objective import Objective, curvature_product, evaluation
from trpo_jax.solver.precision import in_float64
from trpo_jax.solver.trees import Tree


class StepStatus(enum.IntEnum):
    """Why a step was taken or not."""

    ACCEPTED = 0
    """A candidate satisfied both inequalities (or there was no line search)."""
    ZERO_GRADIENT = 1
    """∇L = 0: nothing to improve."""
    NOT_FINITE = 2
    """The gradient, or the step computed from it, is not finite."""
    BAD_CURVATURE = 3
    """xᵀ(H + λI)x ≤ 0: no direction of positive curvature was found."""
    LINE_SEARCH_FAILED = 4
    """No candidate satisfied both inequalities."""
    OFF_POLICY = 5
    """The batch was not drawn from the policy that was to be improved. Set by the learner."""


class TrustRegionInfo(NamedTuple):
    """What happened in one step. Scalars, but for two short vectors."""

    status: jax.Array
    """int32, a `StepStatus`."""
    accepted: jax.Array
    """bool: whether the parameters changed."""
    step_fraction: jax.Array
    """Share of the full step that was taken; 0 if none was."""
    num_backtracks: jax.Array
    """int32: times the line search shrank the step."""
    kl: jax.Array
    """D at the new parameters; 0 if the step was rejected."""
    candidate_kls: jax.Array
    """[max_backtracks + 1]: D at each candidate of the line search; NaN where none was tried."""
    improvement: jax.Array
    """L at the new parameters; 0 if the step was rejected."""
    predicted_improvement: jax.Array
    """gᵀΔθ for the step that was taken; for the full step if none was."""
    gradient_norm: jax.Array
    """‖g‖."""
    step_norm: jax.Array
    """‖Δθ‖ of the full step."""
    damping: jax.Array
    """λ of H + λI in this step."""
    multiplier: jax.Array
    """Lagrange multiplier √(xᵀ(H + λI)x / 2δ) of the constraint; 0 without curvature."""
    cg_iterations: jax.Array
    """int32: conjugate gradient iterations."""
    cg_residual_norms: jax.Array
    """[cg_iterations + 1]: residual norm before the first and after every iteration."""
    cg_breakdown: jax.Array
    """bool: non-positive curvature or a value that is not finite within the solve."""


def trust_region_step(
    objective: Objective, params: Tree, batch: Tree, hparams: HParams, config: TRPOConfig
) -> tuple[Tree, TrustRegionInfo]:
    """Improve `params` by one TRPO step on `batch`, or return them bit for bit.

    x = CG(H + λI, g),  Δθ = √(2δ / xᵀ(H + λI)x) · x,  then backtracking on D ≤ δ and L > 0,
    with g = ∇L(θ_old), H = ∇²D(θ_old), δ = `hparams.max_kl`, λ = `hparams.cg_damping`.
    Gradient, curvature and line search see the same batch and the same weights. With
    `config.line_search` off the full step is taken untested: the natural policy gradient.
    A numerical failure is reported in `TrustRegionInfo.status`, never raised. Unless
    `config.solver_dtype` is "float32", what a surrounding `vmap` batches has to come in through
    `params`, `batch` or `hparams`, not through values that the objective closes over.
    Schulman et al. 2015, app. C; Kakade 2001.
    """
    with jax.default_matmul_precision("highest"):
        evaluate = evaluation(objective, batch, config)
        gradient, _ = trees.ravel(jax.grad(lambda candidate: evaluate(candidate)[0])(params))
        solution = _natural_direction(objective, params, batch, gradient, hparams, config)

        curvature = trees.dot(solution.x, _minus(gradient, solution.residual))
        curved = curvature > 0
        scale = jnp.sqrt(2 * hparams.max_kl / jnp.where(curved, curvature, 1))
        full_step = trees.scaled(scale, solution.x)
        predicted = trees.dot(gradient, full_step)
        blocked = _reason_not_to_step(gradient, curvature, full_step)
        full_step = trees.select(blocked == 0, full_step, jax.tree.map(jnp.zeros_like, full_step))

        vector, unravel = trees.ravel(params)
        search = _search(
            lambda candidate: evaluate(unravel(candidate)),
            vector, full_step, predicted, blocked, hparams, config,
        )  # fmt: skip

    rejected = jnp.where(blocked == 0, StepStatus.LINE_SEARCH_FAILED, blocked)
    share = jnp.where(search.accepted, search.step_fraction, 1)
    info = TrustRegionInfo(
        status=jnp.where(search.accepted, StepStatus.ACCEPTED, rejected).astype(jnp.int32),
        accepted=search.accepted,
        step_fraction=search.step_fraction,
        num_backtracks=search.num_backtracks,
        kl=search.kl,
        candidate_kls=search.candidate_kls,
        improvement=search.improvement,
        predicted_improvement=share * predicted,
        gradient_norm=trees.norm(gradient),
        step_norm=trees.norm(full_step),
        damping=jnp.asarray(hparams.cg_damping, curvature.dtype),
        multiplier=jnp.where(curved, 1 / scale, 0),
        cg_iterations=solution.num_iters,
        cg_residual_norms=solution.residual_norms,
        cg_breakdown=solution.breakdown,
    )
    return unravel(search.params), info


def _natural_direction(
    objective: Objective,
    params: Tree,
    batch: Tree,
    gradient: jax.Array,
    hparams: HParams,
    config: TRPOConfig,
) -> CGResult:
    """x ≈ (H + λI)⁻¹ g, in the precision that the configuration asks for.

    "float64" means products and recurrences; "mixed" has products in float32 and the recurrences
    and dot products of conjugate gradients in float64. Conjugate gradients run on one vector: a
    few large operations instead of many small ones.
    """

    def solve(params, batch, gradient, damping, tol) -> CGResult:
        if config.solver_dtype == "float64":
            params, batch = trees.cast((params, batch), jnp.float64)
        if config.solver_dtype != "float32":
            gradient = gradient.astype(jnp.float64)
        flat, unravel = trees.ravel(params)
        product = curvature_product(objective, params, batch, config)

        def damped(vector: jax.Array) -> jax.Array:
            curved, _ = trees.ravel(product(unravel(vector.astype(flat.dtype))))
            return trees.add_scaled(curved.astype(vector.dtype), damping, vector)

        return cg_solve(damped, gradient, max_iters=config.cg_iterations, tol=tol)

    if config.solver_dtype != "float32":
        solve = in_float64(solve, returned=gradient.dtype)
    return solve(params, batch, gradient, hparams.cg_damping, hparams.cg_tol)


def _reason_not_to_step(gradient: Tree, curvature: jax.Array, full_step: Tree) -> jax.Array:
    """0, or the `StepStatus` that forbids a step."""
    finite = trees.all_finite((gradient, curvature, full_step))
    zero = trees.dot(gradient, gradient) == 0
    reason = jnp.where(curvature > 0, 0, StepStatus.BAD_CURVATURE)
    reason = jnp.where(zero, StepStatus.ZERO_GRADIENT, reason)
    return jnp.where(finite, reason, StepStatus.NOT_FINITE)


def _search(
    evaluate, params, full_step, predicted, blocked, hparams: HParams, config: TRPOConfig
) -> LineSearchResult:
    if not config.line_search:
        return _full_step_untested(evaluate, params, full_step, blocked, config)
    return line_search(
        evaluate,
        params,
        full_step,
        max_kl=hparams.max_kl,
        expected_improvement=predicted,
        accept_ratio=hparams.accept_ratio,
        backtrack_factor=hparams.backtrack_factor,
        max_backtracks=config.max_backtracks,
    )


def _full_step_untested(evaluate, params, full_step, blocked, config) -> LineSearchResult:
    """The natural policy gradient: take the full step unless it is not finite or does not exist."""
    candidate = trees.add_scaled(params, 1.0, full_step)
    improvement, kl = evaluate(candidate)
    accepted = (blocked == 0) & trees.all_finite((candidate, improvement, kl))
    return LineSearchResult(
        params=trees.select(accepted, candidate, params),
        accepted=accepted,
        step_fraction=accepted.astype(kl.dtype),
        num_backtracks=jnp.int32(0),
        kl=jnp.where(accepted, kl, 0),
        improvement=jnp.where(accepted, improvement, 0),
        candidate_kls=jnp.full(config.max_backtracks + 1, jnp.nan, kl.dtype).at[0].set(kl),
    )


def _minus(left: Tree, right: Tree) -> Tree:
    return jax.tree.map(jnp.subtract, left, right)
