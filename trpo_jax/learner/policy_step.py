"""The policy improvement as something that can be replaced, and the guard around it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.config import HParams, TRPOConfig
from trpo_jax.learner.batch import PreparedBatch
from trpo_jax.learner.objective import make_objective
from trpo_jax.learner.types import TrainState
from trpo_jax.policies.networks import Policy
from trpo_jax.solver import trees
from trpo_jax.solver.damping import adaptive_trust_region_step
from trpo_jax.solver.trust_region import StepStatus, TrustRegionInfo, trust_region_step


class PolicyStep(NamedTuple):
    """A policy improvement that carries a state from update to update, such as Adam's."""

    init: Callable[[Any], Any]
    """policy_params -> step state."""
    apply: Callable[..., tuple[Any, Any, TrustRegionInfo]]
    """(key, objective, params, state, batch, hparams, config) -> (params, state, info).

    The state goes on also when `info.accepted` is false: the step decides what a rejection means.
    """


def as_policy_step(step: Callable[..., Any] | PolicyStep, config: TRPOConfig) -> PolicyStep:
    """A plain function as a `PolicyStep` that carries nothing; a `PolicyStep` as it is."""
    if config.adapt_damping:
        if step is not trust_region_step:
            raise ValueError(
                f"adapt_damping=True is for the default policy step; with {step!r} leave it False"
            )
        return _ADAPTIVE
    if isinstance(step, PolicyStep):
        return step

    def apply(key, objective, params, step_state, batch, hparams, config):
        del key
        returned = step(objective, params, batch, hparams, config)
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise ValueError(f"{step!r} must return (params, TrustRegionInfo); got {returned!r}")
        return returned[0], step_state, returned[1]

    return PolicyStep(init=lambda params: (), apply=apply)


def _adaptive(key, objective, params, scale, batch, hparams, config):
    del key
    return adaptive_trust_region_step(objective, params, scale, batch, hparams, config)


_ADAPTIVE = PolicyStep(init=lambda params: jnp.ones((), jnp.float32), apply=_adaptive)


def guarded_step(
    key: jax.Array,
    state: TrainState,
    prepared: PreparedBatch,
    hparams: HParams,
    *,
    policy: Policy,
    config: TRPOConfig,
    step: PolicyStep,
) -> tuple[Any, Any, TrustRegionInfo]:
    """The policy step; refused if the batch is of another policy, or the result not finite."""
    objective = make_objective(policy, hparams.entropy_coef)
    params, step_state, info = step.apply(
        key,
        objective,
        state.policy_params,
        state.policy_step_state,
        prepared.batch,
        hparams,
        config,
    )
    if not isinstance(info, TrustRegionInfo):
        raise ValueError(f"the policy step must return a TrustRegionInfo; got {info!r}")
    info = jax.tree.map(jnp.asarray, info)
    finite = trees.all_finite((params, step_state))
    sound = prepared.on_policy & finite
    reason = jnp.where(
        prepared.on_policy & ~finite | jnp.isnan(prepared.on_policy_gap),
        StepStatus.NOT_FINITE,
        StepStatus.OFF_POLICY,
    )
    refused = info._replace(
        status=reason.astype(info.status.dtype),
        accepted=jnp.zeros_like(info.accepted),
        step_fraction=jnp.zeros_like(info.step_fraction),
        kl=jnp.zeros_like(info.kl),
        improvement=jnp.zeros_like(info.improvement),
    )
    return (
        trees.select(sound & info.accepted, params, state.policy_params),
        trees.select(sound, step_state, state.policy_step_state),
        trees.select(prepared.on_policy & (finite | ~info.accepted), info, refused),
    )
