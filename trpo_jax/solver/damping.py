"""Levenberg–Marquardt adaptation of the damping from step to step."""

import jax
import jax.numpy as jnp

from trpo_jax.solver.info import StepStatus, TrustRegionInfo

GOOD_RATIO, BAD_RATIO = 0.75, 0.25
FACTOR = 1.5
LEAST, MOST = 1e-3, 1e3


def adapted_scale(scale: jax.Array, info: TrustRegionInfo) -> jax.Array:
    """The damping scale for the next step, given in `info` what the last step achieved; scalars.

        ρ = L(θ_new) / gᵀΔθ_full;   ρ > ¾: scale / 1.5;   ρ < ¼, or no step: scale · 1.5

    The prediction is for the full step, so backtracking counts against the model. A zero gradient
    leaves the scale unchanged. The scale stays within [10⁻³, 10³]. Marquardt 1963; constants from
    Martens 2010, sec. 4.1.
    """
    predicted = info.predicted_improvement
    predictable = info.accepted & (predicted > 0)
    ratio = jnp.where(
        predictable, info.step_fraction * info.improvement / jnp.where(predictable, predicted, 1), 0
    )
    change = jnp.where(ratio > GOOD_RATIO, 1 / FACTOR, jnp.where(ratio < BAD_RATIO, FACTOR, 1.0))
    change = jnp.where(info.status == StepStatus.ZERO_GRADIENT, 1.0, change)
    return jnp.clip(scale * change, LEAST, MOST).astype(scale.dtype)
