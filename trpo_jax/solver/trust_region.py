"""One trust-region step in three pieces: a local model, the step it proposes, the search."""

import enum
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.common.trees import Tree
from trpo_jax.solver.conjugate_gradient import CGResult, cg_solve
from trpo_jax.solver.curvature import MatVec
from trpo_jax.solver.line_search import Accept, LineSearchResult, line_search, untested_step
from trpo_jax.solver.objective import (
    Curvature,
    Objective,
    curvature_product,
    evaluation,
    require_curvature,
)
from trpo_jax.solver.precision import in_float64

Dtype = Literal["float32", "float64"]
Number = jax.Array | float


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
    REJECTED = 6
    """A method without a trust region rejected its own step."""


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


class LocalModel(NamedTuple):
    """L(θ + Δ) ≈ gᵀΔ and D(θ + Δ) ≈ ½ ΔᵀHΔ at the parameters θ where a step begins."""

    objective: Objective
    """L and D."""
    params: Tree
    """θ."""
    batch: Tree
    """The examples over which L and D are means."""
    gradient: jax.Array
    """g = ∇L(θ), all leaves as one vector."""
    curvature: Curvature
    """How products with H are made."""
    chunk_size: int | None
    """Examples per micro-batch; None: all at once."""

    def product(self) -> MatVec:
        """v ↦ H v, for trees shaped like `params`; linearised here, once."""
        return curvature_product(
            self.objective,
            self.params,
            self.batch,
            curvature=self.curvature,
            chunk_size=self.chunk_size,
        )


Preconditioner = Callable[[LocalModel, Number], MatVec]
"""(model, damping) -> (v ↦ P⁻¹v) for trees shaped like `params`, with P near H + λI."""


class Proposal(NamedTuple):
    """The step that a local model proposes, before anything is tried."""

    step: jax.Array
    """Δθ as one vector; zero if `blocked`."""
    predicted_improvement: jax.Array
    """gᵀΔθ, also if `blocked`."""
    blocked: jax.Array
    """int32: 0, or the `StepStatus` that forbids the step."""
    multiplier: jax.Array
    """√(xᵀ(H + λI)x / 2δ); 0 without curvature."""
    solution: CGResult
    """x ≈ (H + λI)⁻¹ g, and how it was found."""


def local_model(
    objective: Objective,
    params: Tree,
    batch: Tree,
    *,
    curvature: Curvature = "gauss_newton",
    chunk_size: int | None = None,
) -> LocalModel:
    """The first piece: the gradient, and what products with H need."""
    require_curvature(curvature, objective)
    evaluate = evaluation(objective, batch, chunk_size=chunk_size)
    with jax.default_matmul_precision("highest"):
        gradient, _ = trees.ravel(jax.grad(lambda candidate: evaluate(candidate)[0])(params))
    return LocalModel(objective, params, batch, gradient, curvature, chunk_size)


def natural_step(
    model: LocalModel,
    *,
    max_kl: Number,
    damping: Number = 0.1,
    cg_iterations: int = 10,
    cg_tol: Number = 1e-8,
    dtype: Dtype = "float32",
    preconditioner: Preconditioner | None = None,
) -> Proposal:
    """The second piece:  x = CG(H + λI, g),  Δθ = √(2δ / xᵀ(H + λI)x) · x.

    λ is `damping`, δ `max_kl`. Nothing is proposed if the gradient is zero, a value is not finite,
    or the curvature along x is not positive. Schulman et al. 2015, app. C; Kakade 2001.
    """
    gradient = model.gradient
    with jax.default_matmul_precision("highest"):
        solution = natural_direction(
            model,
            damping=damping,
            cg_iterations=cg_iterations,
            cg_tol=cg_tol,
            dtype=dtype,
            preconditioner=preconditioner,
        )
        curvature = trees.dot(solution.x, gradient - solution.residual)
        curved = curvature > 0
        scale = jnp.sqrt(2 * max_kl / jnp.where(curved, curvature, 1))
        step = trees.scaled(scale, solution.x)
        predicted = trees.dot(gradient, step)
        blocked = _reason_not_to_step(gradient, curvature, step)
    return Proposal(
        step=trees.select(blocked == 0, step, jnp.zeros_like(step)),
        predicted_improvement=predicted,
        blocked=blocked,
        multiplier=jnp.where(curved, 1 / scale, 0),
        solution=solution,
    )


def natural_direction(
    model: LocalModel,
    *,
    damping: Number = 0.1,
    cg_iterations: int = 10,
    cg_tol: Number = 1e-8,
    dtype: Dtype = "float32",
    preconditioner: Preconditioner | None = None,
) -> CGResult:
    """x ≈ (H + λI)⁻¹ g by conjugate gradients, products and recurrences in the given precision.

    They run on one vector: a few large operations instead of many small ones.
    """

    def solve(params: Tree, batch: Tree, gradient: jax.Array, damping, tol) -> CGResult:
        if dtype == "float64":
            params, batch, gradient = trees.cast((params, batch, gradient), jnp.float64)
        here = model._replace(params=params, batch=batch, gradient=gradient)
        _, unravel = trees.ravel(params)
        product = here.product()

        def damped(vector: jax.Array) -> jax.Array:
            curved, _ = trees.ravel(product(unravel(vector)))
            return trees.add_scaled(curved, damping, vector)

        precondition = None
        if preconditioner is not None:
            apply = preconditioner(here, damping)
            precondition = lambda vector: trees.ravel(apply(unravel(vector)))[0]  # noqa: E731
        return cg_solve(
            damped, gradient, max_iters=cg_iterations, tol=tol, preconditioner=precondition
        )

    if dtype == "float64":
        solve = in_float64(solve, returned=model.gradient.dtype)
    return solve(model.params, model.batch, model.gradient, damping, cg_tol)


def trust_region_step(
    objective: Objective,
    params: Tree,
    batch: Tree,
    *,
    max_kl: Number,
    damping: Number = 0.1,
    cg_iterations: int = 10,
    cg_tol: Number = 1e-8,
    curvature: Curvature = "gauss_newton",
    chunk_size: int | None = None,
    dtype: Dtype = "float32",
    preconditioner: Preconditioner | None = None,
    search: bool = True,
    accept: Accept | None = None,
    accept_ratio: Number = 0.0,
    backtrack_factor: Number = 0.8,
    max_backtracks: int = 10,
) -> tuple[Tree, TrustRegionInfo]:
    """Improve `params` by one TRPO step on `batch`, or return them bit for bit.

    x = CG(H + λI, g),  Δθ = √(2δ / xᵀ(H + λI)x) · x,  then backtracking on D ≤ δ and L > 0,
    with g = ∇L(θ_old), H = ∇²D(θ_old), δ = `max_kl`, λ = `damping`.
    Gradient, curvature and line search see the same batch and the same weights. `chunk_size`
    bounds the memory by micro-batches, `dtype` is that of products and conjugate gradients,
    `preconditioner` speeds them up, `accept` replaces the test of the improvement as in
    `line_search`. Without `search` the full step is taken untested: the natural policy gradient.
    A numerical failure is reported in `TrustRegionInfo.status`, never raised. With dtype
    "float64", what a surrounding `vmap` batches has to come in through `params`, `batch`, `max_kl`,
    `damping` or `cg_tol`, not through values that the objective closes over.
    Schulman et al. 2015, app. C; Kakade 2001.
    """
    model = local_model(objective, params, batch, curvature=curvature, chunk_size=chunk_size)
    proposal = natural_step(
        model,
        max_kl=max_kl,
        damping=damping,
        cg_iterations=cg_iterations,
        cg_tol=cg_tol,
        dtype=dtype,
        preconditioner=preconditioner,
    )
    evaluate = evaluation(objective, batch, chunk_size=chunk_size)
    vector, unravel = trees.ravel(params)
    allowed = proposal.blocked == 0
    rule = accept and (lambda *outcome: allowed & accept(*outcome))
    with jax.default_matmul_precision("highest"):
        if search:
            found = line_search(
                lambda candidate: evaluate(unravel(candidate)),
                vector,
                proposal.step,
                max_kl=max_kl,
                expected_improvement=proposal.predicted_improvement,
                accept_ratio=accept_ratio,
                accept=rule,
                backtrack_factor=backtrack_factor,
                max_backtracks=max_backtracks,
            )
        else:
            found = untested_step(
                lambda candidate: evaluate(unravel(candidate)),
                vector,
                proposal.step,
                allowed=allowed,
                max_backtracks=max_backtracks,
            )
    return unravel(found.params), step_info(model, proposal, found, damping)


def step_info(
    model: LocalModel, proposal: Proposal, found: LineSearchResult, damping: Number
) -> TrustRegionInfo:
    """The record of a step, from its three pieces."""
    blocked = proposal.blocked
    rejected = jnp.where(blocked == 0, StepStatus.LINE_SEARCH_FAILED, blocked)
    share = jnp.where(found.accepted, found.step_fraction, 1)
    return TrustRegionInfo(
        status=jnp.where(found.accepted, StepStatus.ACCEPTED, rejected).astype(jnp.int32),
        accepted=found.accepted,
        step_fraction=found.step_fraction,
        num_backtracks=found.num_backtracks,
        kl=found.kl,
        candidate_kls=found.candidate_kls,
        improvement=found.improvement,
        predicted_improvement=share * proposal.predicted_improvement,
        gradient_norm=trees.norm(model.gradient),
        step_norm=trees.norm(proposal.step),
        damping=jnp.asarray(damping, proposal.step.dtype),
        multiplier=proposal.multiplier,
        cg_iterations=proposal.solution.num_iters,
        cg_residual_norms=proposal.solution.residual_norms,
        cg_breakdown=proposal.solution.breakdown,
    )


def _reason_not_to_step(gradient: Tree, curvature: jax.Array, step: Tree) -> jax.Array:
    """0, or the `StepStatus` that forbids a step."""
    finite = trees.all_finite((gradient, curvature, step))
    zero = trees.dot(gradient, gradient) == 0
    reason = jnp.where(curvature > 0, 0, StepStatus.BAD_CURVATURE)
    reason = jnp.where(zero, StepStatus.ZERO_GRADIENT, reason)
    return jnp.where(finite, reason, StepStatus.NOT_FINITE)
