"""Second piece of a trust-region step: the step that the local model proposes."""

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple, NoReturn

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.common.trees import Tree
from trpo_jax.solver.conjugate_gradient import CGResult, cg_solve
from trpo_jax.solver.curvature import MatVec
from trpo_jax.solver.info import StepStatus
from trpo_jax.solver.local_model import LocalModel
from trpo_jax.solver.precision import in_float64

Dtype = Literal["float32", "float64"]
Number = jax.Array | float
Preconditioner = Callable[[LocalModel, Number], MatVec]
"""(model, damping) -> (v ↦ P⁻¹v) for trees shaped like `params`, with P close to H + λI."""


class Proposal(NamedTuple):
    """The step that a local model proposes, before it is tried; scalars but for the vector."""

    step: jax.Array
    """Δθ as one vector; zero if `blocked`."""
    predicted_improvement: jax.Array
    """gᵀΔθ, even if `blocked`."""
    blocked: jax.Array
    """int32: 0, or the `StepStatus` that forbids the step."""
    multiplier: jax.Array
    """√(xᵀ(H + λI)x / 2δ); 0 without curvature."""
    solution: CGResult
    """x ≈ (H + λI)⁻¹ g, and the record of its solve."""


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
    """Propose a step:  x = CG(H + λI, g),  Δθ = √(2δ / xᵀ(H + λI)x) · x.

    λ is `damping`, δ `max_kl`; the rest is as in `natural_direction`. The step is blocked if the
    gradient is zero, a value is not finite, or the curvature along x is not positive. Schulman et
    al. 2015, app. C; Kakade 2001.
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
    """x ≈ (H + λI)⁻¹ g by conjugate gradients, with products and recurrences in `dtype`.

    g and H are those of `model`, λ is `damping`; `cg_iterations`, `cg_tol` and `preconditioner` are
    the `max_iters`, `tol` and preconditioner of `cg_solve`. The recurrences run on one flat vector:
    a few large operations instead of many small ones. Schulman et al. 2015, app. C.
    """

    objective = model.objective
    if dtype == "float64":  # what runs there closes over no array
        objective = objective._replace(gain=_no_gain, constraints=None)
    local = functools.partial(
        LocalModel, objective, curvature=model.curvature, chunk_size=model.chunk_size
    )

    def solve(params: Tree, batch: Tree, gradient: jax.Array, damping, tol) -> CGResult:
        if dtype == "float64":
            params, batch, gradient = trees.cast((params, batch, gradient), jnp.float64)
        here = local(params, batch, gradient)
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


def _no_gain(outputs: Tree, batch: Tree) -> NoReturn:
    """In place of the gain, which may close over arrays such as the coefficient of the entropy."""
    raise ValueError(
        "model.objective.gain is not there in float64; a preconditioner has the divergence"
    )


def _reason_not_to_step(gradient: Tree, curvature: jax.Array, step: Tree) -> jax.Array:
    """0, or the `StepStatus` that forbids a step."""
    finite = trees.all_finite((gradient, curvature, step))
    zero = trees.dot(gradient, gradient) == 0
    reason = jnp.where(curvature > 0, 0, StepStatus.BAD_CURVATURE)
    reason = jnp.where(zero, StepStatus.ZERO_GRADIENT, reason)
    return jnp.where(finite, reason, StepStatus.NOT_FINITE)
