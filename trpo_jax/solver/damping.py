"""Levenberg–Marquardt adaptation of the damping, from step to step."""

import jax
import jax.numpy as jnp

from trpo_jax.solver.info import StepStatus, TrustRegionInfo

GOOD_RATIO, BAD_RATIO = 0.75, 0.25
FACTOR = 1.5
LEAST, MOST = 1e-3, 1e3


def adapted_scale(scale: jax.Array, info: TrustRegionInfo) -> jax.Array:
    """The scale of the damping for the next step, judged by what the last one achieved.

        ρ = L(θ_new) / gᵀΔθ_full;   ρ > ¾: scale / 1.5;   ρ < ¼, or no step: scale · 1.5

    The prediction is that for the full step, so that backtracking counts against the model. Zero
    gradient changes nothing; the scale stays within [10⁻³, 10³]. Marquardt 1963; the constants are
    those of Martens 2010, sec. 4.1.
    """
    predicted = info.predicted_improvement
    predictable = info.accepted & (predicted > 0)
    ratio = jnp.where(
        predictable, info.step_fraction * info.improvement / jnp.where(predictable, predicted, 1), 0
    )
    change = jnp.where(ratio > GOOD_RATIO, 1 / FACTOR, jnp.where(ratio < BAD_RATIO, FACTOR, 1.0))
    change = jnp.where(info.status == StepStatus.ZERO_GRADIENT, 1.0, change)
    return jnp.clip(scale * change, LEAST, MOST).astype(scale.dtype)
