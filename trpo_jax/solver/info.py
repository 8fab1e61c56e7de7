"""What a trust-region step reports."""

import enum
from typing import NamedTuple

import jax


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
