"""The linear objective with one linear constraint within a trust region, in closed form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.solver.conjugate_gradient import CGResult
from trpo_jax.solver.info import ConstraintCase
from trpo_jax.solver.natural_step import Number

_INDEPENDENT = 16
"""Of a direction, less than √(16 ε) outside another's is rounding: the two count as parallel."""

_INSIDE = 8
"""The step ends that many ε of the trust region's radius before the boundary, so that rounding
does not carry it across."""


class ConstrainedOptimum(NamedTuple):
    """The step that `constrained_optimum` returns; one vector, and scalars."""

    step: jax.Array
    """Δθ."""
    case: jax.Array
    """int32, a `ConstraintCase`."""
    multiplier: jax.Array
    """λ of the trust region; 0 if the step ends inside of it, or in a recovery."""
    constraint_multiplier: jax.Array
    """ν of the constraint; 0 if it is inactive, or in a recovery, which has none."""


class _Plane(NamedTuple):
    """Coordinates of the gradients in an M-orthonormal basis of the span of x_b and x_g."""

    basis: tuple[jax.Array, jax.Array]
    """e₁ along x_b, and e₂; e₂ is zero if x_g has its direction."""
    gradient: tuple[jax.Array, jax.Array]
    """(gᵀe₁, gᵀe₂)."""
    slope: tuple[jax.Array, jax.Array]
    """(bᵀe₁, bᵀe₂)."""


def constrained_optimum(
    gradient: jax.Array,
    slope: jax.Array,
    solved_gradient: CGResult,
    solved_slope: CGResult,
    *,
    violation: Number,
    max_kl: Number,
) -> ConstrainedOptimum:
    """Maximise gᵀx subject to ½ xᵀM x ≤ δ and c + bᵀx ≤ 0, in the span of x_g and x_b.

    `gradient` g, `slope` b, `violation` c, `max_kl` δ; `solved_gradient` and `solved_slope` are
    x_g ≈ M⁻¹g and x_b ≈ M⁻¹b with their residuals, all vectors [P]. With exact solutions and
    q = gᵀx_g, r = gᵀx_b, s = bᵀx_b the result is

        √(2δ/q) x_g                                      if it satisfies the constraint;
        (x_g − ν x_b)/λ  with  λ = √((q − r²/s)/(2δ − c²/s)),  ν = (λc + r)/s     else;
        −(c/s) x_b                                       if g is parallel to b, q = r²/s;
        −√(2δ/s) x_b                                     if c > 0 and c² ≥ 2δs: nothing is feasible.

    The solutions may be truncated. Products with M are taken from the residuals, M x = right side −
    residual, and slopes are measured, gᵀx and bᵀx, so that the linear model is obeyed at any
    tolerance: in an M-orthonormal basis of the span, the problem is a circle cut by a line. Without
    a gradient of the constraint the step is the first. No value and no derivative is NaN for finite
    arguments. Achiam et al. 2017, theorem 2 and eq. 14; λ and ν are those of
    an ascent direction g.
    """
    radius = jnp.sqrt(2 * jnp.asarray(max_kl, gradient.dtype))
    violation = jnp.asarray(violation, gradient.dtype)
    plane = _plane(gradient, slope, solved_gradient, solved_slope)
    steepness = _root(plane.slope[0] ** 2 + plane.slope[1] ** 2)
    constrained = trees.dot(slope, slope) > 0
    normal = tuple(_ratio(part, steepness) for part in plane.slope)
    tangent = (-normal[1], normal[0])
    along, across = _inner(plane.gradient, normal), _inner(plane.gradient, tangent)
    length = _root(along**2 + across**2)

    rounding = _INSIDE * jnp.finfo(gradient.dtype).eps * radius
    bound = _ratio(-violation, steepness) - rounding
    free = radius * _ratio(along, length)
    depth = jnp.minimum(free, jnp.clip(bound, -radius, radius))
    width = _root(radius**2 - depth**2) * jnp.sign(across)
    first, second = (
        depth * n + width * t for n, t in zip(normal, tangent, strict=True)
    )  # coordinates
    cut = first * plane.basis[0] + second * plane.basis[1]

    straight, curvature = unconstrained_step(gradient, solved_gradient, max_kl)
    satisfied = (curvature > 0) & (violation + trees.dot(slope, straight) <= 0)
    inactive = ~constrained | satisfied
    recovery = constrained & (bound <= -radius)
    case = jnp.where(across == 0, ConstraintCase.PARALLEL, ConstraintCase.ACTIVE)
    case = jnp.where(recovery, ConstraintCase.RECOVERY, case)
    case = jnp.where(inactive, ConstraintCase.INACTIVE, case)
    case = jnp.where(constrained, case, ConstraintCase.UNCONSTRAINED)

    multiplier = _ratio(jnp.abs(across), jnp.abs(width))
    dual = _ratio(along - multiplier * depth, steepness)
    without = inactive | recovery
    return ConstrainedOptimum(
        step=jnp.where(inactive, straight, cut),
        case=case.astype(jnp.int32),
        multiplier=jnp.where(
            inactive, _root(curvature) / radius, jnp.where(recovery, 0, multiplier)
        ),
        constraint_multiplier=jnp.where(without, 0, jnp.maximum(dual, 0)),
    )


def unconstrained_step(
    gradient: jax.Array, solved_gradient: CGResult, max_kl: Number
) -> tuple[jax.Array, jax.Array]:
    """TRPO's step √(2δ / xᵀM x) · x, and the curvature xᵀM x; without curvature the step is 0."""
    curvature = trees.dot(solved_gradient.x, gradient - solved_gradient.residual)
    scale = jnp.sqrt(2 * jnp.asarray(max_kl, gradient.dtype)) * _ratio(1.0, _root(curvature))
    return scale * solved_gradient.x, curvature


def _plane(
    gradient: jax.Array, slope: jax.Array, solved_gradient: CGResult, solved_slope: CGResult
) -> _Plane:
    """Gram–Schmidt in the scalar product of M; twice, because the directions may be close."""
    image_g, image_b = gradient - solved_gradient.residual, slope - solved_slope.residual
    size = _root(trees.dot(solved_slope.x, image_b))
    first, first_image = _ratio(solved_slope.x, size), _ratio(image_b, size)
    rest, image = solved_gradient.x, image_g
    for _ in range(2):
        share = trees.dot(first, image)
        rest, image = rest - share * first, image - share * first_image
    squared = trees.dot(rest, image)
    rounding = _INDEPENDENT * jnp.finfo(gradient.dtype).eps
    independent = squared > rounding * trees.dot(solved_gradient.x, image_g)
    second = _ratio(rest, jnp.where(independent, _root(squared), 0))
    basis = first, second
    return _Plane(
        basis,
        gradient=(trees.dot(gradient, first), trees.dot(gradient, second)),
        slope=(trees.dot(slope, first), trees.dot(slope, second)),
    )


def _inner(left: tuple[jax.Array, ...], right: tuple[jax.Array, ...]) -> jax.Array:
    return left[0] * right[0] + left[1] * right[1]


def _root(squared: jax.Array) -> jax.Array:
    """√ of a number that should not be negative; 0 if it is not positive, without NaN behind."""
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1)), 0)


def _ratio(numerator: jax.Array | float, denominator: jax.Array) -> jax.Array:
    """numerator / denominator; 0 if the denominator is 0."""
    usable = denominator != 0
    return jnp.where(usable, numerator / jnp.where(usable, denominator, 1), 0)
