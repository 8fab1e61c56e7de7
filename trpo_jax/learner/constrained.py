"""Policy steps that keep a limit on the cost per episode: CPO, and TRPO with a multiplier."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.learner.normalization import weighted_mean_and_deviation
from trpo_jax.learner.parts import PolicyStep
from trpo_jax.learner.settings import trust_region_settings
from trpo_jax.learner.types import Batch, BatchCosts
from trpo_jax.solver.constrained_step import constrained_step
from trpo_jax.solver.info import ConstraintInfo
from trpo_jax.solver.natural_step import Preconditioner
from trpo_jax.solver.trust_region import trust_region_step

SLOPE_TOLERANCE = 0.05
"""Of CPO's second solve. It need not be more exact: the step is feasible to first order at any."""


def cost_surrogate(distribution: Any, batch: Batch) -> jax.Array:
    """(π/π_old − 1) Â_C, [B]: its mean is the change of the cost per step, to first order."""
    log_ratio = distribution.log_prob(batch.action) - batch.log_prob
    return jnp.expm1(log_ratio) * _costs(batch).advantage


def cpo_step(*, preconditioner: Preconditioner | None = None) -> PolicyStep:
    """Constrained policy optimisation as a `PolicyStep`; `algorithm="cpo"`.

    maximise L(θ) subject to KL ≤ δ and c + E[(π/π_old − 1) Â_C] ≤ 0, c = (Ĵ_C − d) / L̄ per step:
    `constrained_step`, with the settings of TRPO; the solve for the costs stops at a residual of
    `SLOPE_TOLERANCE`. Its step is always searched; `line_search=False`
    is refused when the agent is made. Achiam et al. 2017.
    """

    def apply(key, objective, params, state, batch, hparams: HParams, config: TRPOConfig):
        del key
        settings = trust_region_settings(hparams, config)
        del settings["search"]
        params, info = constrained_step(
            objective._replace(constraints=cost_surrogate),
            params,
            batch,
            violation=violation_per_step(batch),
            slope_cg_tol=jnp.maximum(hparams.cg_tol, SLOPE_TOLERANCE),
            preconditioner=preconditioner,
            **settings,
        )
        return params, state, info

    return PolicyStep(init=lambda params: (), apply=apply, uses_costs=True)


class MultiplierState(NamedTuple):
    """What the control of the multiplier carries from update to update; scalars."""

    integral: jax.Array
    """K_I Σ (Ĵ_C − d), clamped to [0, `max_multiplier`]."""
    last_cost: jax.Array
    """Ĵ_C of the last update; the largest number before the first, so that nothing has risen."""


def first_multiplier() -> MultiplierState:
    """The state before the first update: the multiplier begins at 0."""
    largest = jnp.asarray(jnp.finfo(jnp.float32).max, jnp.float32)
    return MultiplierState(jnp.zeros((), jnp.float32), largest)


def next_multiplier(
    state: MultiplierState, cost: jax.Array, hparams: HParams
) -> tuple[MultiplierState, jax.Array]:
    """The multiplier ν under PID control, from the cost per episode Ĵ_C.

        Δ = Ĵ_C − d,   I ← clip(I + K_I Δ, 0, ν_max),   D = max(Ĵ_C − Ĵ_C of the last update, 0)
        ν = clip(K_P Δ + I + K_D D, 0, ν_max)

    d is `cost_limit`; the gains are the fields `multiplier_…`, ν_max `max_multiplier`. With
    K_P = K_D = 0 it is dual ascent, the plain Lagrangian method. Stooke et al. 2020, algorithm 2.
    """
    excess, most = cost - hparams.cost_limit, hparams.max_multiplier
    integral = jnp.clip(state.integral + hparams.multiplier_integral * excess, 0, most)
    rise = jnp.maximum(cost - state.last_cost, 0)
    wanted = hparams.multiplier_proportional * excess + integral
    multiplier = jnp.clip(wanted + hparams.multiplier_derivative * rise, 0, most)
    return MultiplierState(integral, cost), multiplier


def lagrangian_step(*, preconditioner: Preconditioner | None = None) -> PolicyStep:
    """TRPO on the advantage (Â − ν Â_C) / (1 + ν) as a `PolicyStep`; `algorithm="lagrangian"`.

    ν is controlled by `next_multiplier`, from this batch's estimate of the cost; it moves also when
    the step is rejected. `preconditioner` is that of `trust_region_step`. Stooke et al. 2020; Ray
    et al. 2019.
    """

    def apply(key, objective, params, state, batch, hparams: HParams, config: TRPOConfig):
        del key
        costs, violation = _costs(batch), violation_per_step(batch)
        cost = hparams.cost_limit + violation * jnp.max(costs.mean_length)
        state, multiplier = next_multiplier(state, cost, hparams)
        mixed = (batch.advantage - multiplier * costs.advantage) / (1 + multiplier)
        params, info = trust_region_step(
            objective,
            params,
            batch.replace(advantage=mixed),
            preconditioner=preconditioner,
            **trust_region_settings(hparams, config),
        )
        return params, state, info._replace(constraint=ConstraintInfo(violation, multiplier))

    return PolicyStep(init=lambda params: first_multiplier(), apply=apply, uses_costs=True)


def violation_per_step(batch: Batch) -> jax.Array:
    """c = (Ĵ_C − d) / L̄, the mean cost of a step of the batch above the limit per step."""
    return weighted_mean_and_deviation(_costs(batch).excess, batch.weight)[0]


def _costs(batch: Batch) -> BatchCosts:
    if batch.costs is None:
        raise ValueError(
            "batch.costs=None: this policy step needs costs; give it to make_trpo as a PolicyStep "
            "with uses_costs=True"
        )
    return batch.costs
