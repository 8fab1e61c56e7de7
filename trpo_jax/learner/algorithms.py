"""The policy steps and value fits that a configuration can name. They are chosen only here."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.learner.constrained import cpo_step, lagrangian_step
from trpo_jax.learner.parts import PolicyStep, ValueFit
from trpo_jax.learner.settings import trust_region_settings
from trpo_jax.learner.types import Batch
from trpo_jax.learner.value import (
    ValueFitInfo,
    fit_value,
    fit_value_lbfgs,
    init_value_optimizer,
)
from trpo_jax.solver.damping import adapted_scale
from trpo_jax.solver.line_search import Accept
from trpo_jax.solver.natural_step import Preconditioner
from trpo_jax.solver.trust_region import trust_region_step


def trpo_step(
    *,
    accept: Accept | None = None,
    preconditioner: Preconditioner | None = None,
    adaptive_damping: bool = False,
) -> PolicyStep:
    """TRPO's step as a `PolicyStep`, for `make_trpo(…, policy_step=trpo_step(…))`.

    `accept` replaces the test of the improvement as in `line_search`; `preconditioner` speeds up
    conjugate gradients as in `natural_step`. With `adaptive_damping` the damping is
    `hparams.cg_damping` times a scale that is adapted from update to update (`adapted_scale`).
    """
    pieces: dict[str, Any] = {"accept": accept, "preconditioner": preconditioner}

    def fixed(key, objective, params, state, batch, hparams, config):
        del key
        settings = trust_region_settings(hparams, config)
        params, info = trust_region_step(objective, params, batch, **settings, **pieces)
        return params, state, info

    def adaptive(key, objective, params, scale, batch, hparams, config):
        damped = hparams.replace(cg_damping=scale * hparams.cg_damping)
        params, _, info = fixed(key, objective, params, (), batch, damped, config)
        return params, adapted_scale(scale, info), info

    if adaptive_damping:
        return PolicyStep(init=lambda params: jnp.ones((), jnp.float32), apply=adaptive)
    return PolicyStep(init=lambda params: (), apply=fixed)


def _fit_by_adam(
    key: jax.Array, predict, params, state, batch: Batch, hparams: HParams, config: TRPOConfig
) -> tuple[Any, Any, ValueFitInfo]:
    return fit_value(
        key,
        params,
        state,
        apply=predict,
        obs=batch.critic_obs,
        target=batch.value_target,
        weight=batch.weight,
        learning_rate=hparams.value_learning_rate,
        num_epochs=config.value_epochs,
        minibatch_size=config.minibatch_of(math.prod(batch.weight.shape[1:])),
    )


def _fit_by_lbfgs(
    key: jax.Array, predict, params, state, batch: Batch, hparams: HParams, config: TRPOConfig
) -> tuple[Any, Any, ValueFitInfo]:
    del key, hparams
    params, info = fit_value_lbfgs(
        params,
        apply=predict,
        obs=batch.critic_obs,
        target=batch.value_target,
        weight=batch.weight,
        num_iterations=config.value_iterations,
    )
    return params, state, info


POLICY_STEPS = {
    "trpo": trpo_step(),
    "trpo_adaptive_damping": trpo_step(adaptive_damping=True),
    "cpo": cpo_step(),
    "lagrangian": lagrangian_step(),
}
"""Keys: `TRPOConfig.algorithm`."""
VALUE_FITS = {
    "adam": ValueFit(init=init_value_optimizer, apply=_fit_by_adam, rejects_itself=True),
    "lbfgs": ValueFit(init=lambda params: (), apply=_fit_by_lbfgs, rejects_itself=True),
}
"""Keys: `TRPOConfig.value_optimizer`."""
