"""One trust-region step in three pieces: local model, proposed step, line search."""

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.common.trees import Tree
from trpo_jax.solver.info import StepStatus, TrustRegionInfo
from trpo_jax.solver.line_search import Accept, LineSearchResult, line_search, untested_step
from trpo_jax.solver.local_model import LocalModel, local_model
from trpo_jax.solver.natural_step import (
    Dtype,
    Number,
    Preconditioner,
    Proposal,
    natural_step,
)
from trpo_jax.solver.objective import Curvature, Objective, evaluation


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
    """Improve `params` by one TRPO step on `batch`, or return them unchanged, bit for bit.

    x = CG(H + λI, g),  Δθ = √(2δ / xᵀ(H + λI)x) · x,  then backtracking on D ≤ δ and L > 0,
    with g = ∇L(θ_old), H = ∇²D(θ_old), δ = `max_kl`, λ = `damping`.
    Gradient, curvature and line search use the same batch and the same weights. `chunk_size`
    bounds memory by micro-batches, `dtype` is the precision of products and conjugate gradients
    (at most `cg_iterations`, to a relative residual of `cg_tol`),
    `preconditioner` speeds the solve up, and `accept` replaces the test of the improvement as in
    `line_search`. Without `search` the full step is taken untested (the natural policy gradient);
    giving `accept` as well is then a `ValueError`.
    A numerical failure is reported in `TrustRegionInfo.status`, never raised. With dtype
    "float64", whatever a surrounding `vmap` batches must be passed in `params`, `batch`, `max_kl`,
    `damping` or `cg_tol`; the objective must not close over it.
    Schulman et al. 2015, app. C; Kakade 2001.
    """
    if accept is not None and not search:
        raise ValueError(f"accept={accept!r} needs the line search, but search=False; drop one")
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
    found = search_along(
        model,
        proposal,
        search=search,
        max_kl=max_kl,
        accept=accept,
        accept_ratio=accept_ratio,
        backtrack_factor=backtrack_factor,
        max_backtracks=max_backtracks,
    )
    return found.params, step_info(model, proposal, found, damping)


def search_along(
    model: LocalModel,
    proposal: Proposal,
    *,
    search: bool,
    accept: Accept | None,
    max_backtracks: int,
    **options: Number,
) -> LineSearchResult:
    """Third piece: take as much of the proposed step as is acceptable; `params` as a tree again."""
    evaluate = evaluation(model.objective, model.batch, chunk_size=model.chunk_size)
    vector, unravel = trees.ravel(model.params)
    allowed = proposal.blocked == 0
    try_out = lambda candidate: evaluate(unravel(candidate))  # noqa: E731
    with jax.default_matmul_precision("highest"):
        if search:
            found = line_search(
                try_out,
                vector,
                proposal.step,
                expected_improvement=proposal.predicted_improvement,
                accept=accept and (lambda *outcome: allowed & accept(*outcome)),
                max_backtracks=max_backtracks,
                **options,
            )
        else:
            found = untested_step(
                try_out, vector, proposal.step, allowed=allowed, max_backtracks=max_backtracks
            )
    return found._replace(params=unravel(found.params))


def step_info(
    model: LocalModel, proposal: Proposal, found: LineSearchResult, damping: Number
) -> TrustRegionInfo:
    """The record of a step, assembled from its three pieces."""
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
        cg_converged=proposal.solution.converged,
    )
