"""The report of a trust-region step."""

import enum
from typing import NamedTuple

import jax


class StepStatus(enum.IntEnum):
    """Why a step was accepted or rejected."""

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
    """The batch was not drawn from the policy to be improved. Set by the learner."""
    REJECTED = 6
    """A method without a trust region rejected its own step."""


class ConstraintCase(enum.IntEnum):
    """How a constrained step was found."""

    INACTIVE = 0
    """The step without the constraint satisfies it, and is the optimum."""
    ACTIVE = 1
    """The optimum lies on the constraint's boundary and on that of the trust region."""
    RECOVERY = 2
    """Nothing in the trust region satisfies the constraint: the step that lowers it most."""
    PARALLEL = 3
    """Both gradients have one direction: the shortest step to the constraint's boundary."""
    UNCONSTRAINED = 4
    """The constraint has no gradient, so the step is the one without it."""


class ConstraintInfo(NamedTuple):
    """What a step did about its constraint C ≤ 0; scalars. What a method lacks is None."""

    violation: jax.Array
    """c = C where the step starts; > 0 if the constraint is violated."""
    multiplier: jax.Array
    """ν, Lagrange multiplier of the constraint; 0 where it has none."""
    change: jax.Array | None = None
    """C(new) − C(old), as the line search measured it; 0 if rejected."""
    predicted_change: jax.Array | None = None
    """bᵀΔθ for the step taken; for the full step if rejected."""
    case: jax.Array | None = None
    """int32, a `ConstraintCase`."""
    gradient_norm: jax.Array | None = None
    """‖b‖."""
    cg_residual: jax.Array | None = None
    """‖b − M x_b‖ / ‖b‖ at the end of the solve; 0 if b is 0."""


class TrustRegionInfo(NamedTuple):
    """What happened in one step: scalars, and two short vectors."""

    status: jax.Array
    """int32, a `StepStatus`."""
    accepted: jax.Array
    """bool: whether the parameters changed."""
    step_fraction: jax.Array
    """Fraction of the full step that was taken; 0 if rejected."""
    num_backtracks: jax.Array
    """int32: how many times the line search shrank the step."""
    kl: jax.Array
    """D at the new parameters; 0 if rejected."""
    candidate_kls: jax.Array
    """[max_backtracks + 1]: D at each candidate of the line search; −1 for those not tried."""
    improvement: jax.Array
    """L at the new parameters; 0 if rejected."""
    predicted_improvement: jax.Array
    """gᵀΔθ for the step taken; for the full step if rejected."""
    gradient_norm: jax.Array
    """‖g‖."""
    step_norm: jax.Array
    """‖Δθ‖ of the full step."""
    damping: jax.Array
    """λ in H + λI."""
    multiplier: jax.Array
    """Lagrange multiplier √(xᵀ(H + λI)x / 2δ) of the constraint; 0 without curvature."""
    cg_iterations: jax.Array
    """int32: conjugate gradient iterations used."""
    cg_residual_norms: jax.Array
    """[cg_iterations + 1]: residual norm before the first and after each iteration."""
    cg_breakdown: jax.Array
    """bool: the solve met non-positive curvature, or a NaN or infinite value."""
    cg_converged: jax.Array
    """bool: the solve reached its tolerance; otherwise a breakdown or the number of iterations
    ended it."""
    constraint: ConstraintInfo | None = None
    """What a method with a constraint did about it; None without one."""
