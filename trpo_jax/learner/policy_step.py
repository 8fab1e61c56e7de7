"""The interface of policy steps, and the guard around them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.config import HParams
from trpo_jax.learner.batch import PreparedBatch
from trpo_jax.learner.objective import make_objective
from trpo_jax.learner.parts import Parts, PolicyStep
from trpo_jax.learner.types import TrainState
from trpo_jax.solver.info import StepStatus, TrustRegionInfo


class StepInfo(NamedTuple):
    """The report of any policy step, in scalars. A method with a trust region reports a
    `TrustRegionInfo`, which has these fields too."""

    accepted: jax.Array
    """bool: whether the parameters changed."""
    kl: jax.Array
    """Mean KL(old‖new) on the batch; 0 if rejected."""
    improvement: jax.Array | float = 0.0
    """Surrogate gain on the batch, if the method computes it."""
    status: jax.Array | None = None
    """int32, a `StepStatus`. None: ACCEPTED or REJECTED, according to `accepted`."""


def as_policy_step(step: Callable[..., Any] | PolicyStep) -> PolicyStep:
    """A plain function as a `PolicyStep` without state; a `PolicyStep` unchanged."""
    if isinstance(step, PolicyStep):
        return step

    def apply(key, objective, params, step_state, batch, hparams, config):
        del key
        returned = step(objective, params, batch, hparams, config)
        if not (isinstance(returned, tuple) and len(returned) == 2):
            raise ValueError(
                f"{step!r} must return (params, info), a StepInfo or TrustRegionInfo; got "
                f"{returned!r}"
            )
        return returned[0], step_state, returned[1]

    return PolicyStep(init=lambda params: (), apply=apply)


def guarded_step(
    parts: Parts, key: jax.Array, state: TrainState, prepared: PreparedBatch, hparams: HParams
) -> tuple[Any, Any, StepInfo | TrustRegionInfo]:
    """The policy step; refused if the batch is off-policy or the result is not finite."""
    has_fisher_product = hasattr(prepared.batch.distribution, "fisher_product")
    params, step_state, info = parts.policy_step.apply(
        key,
        make_objective(parts.policy, hparams.entropy_coef, has_fisher_product),
        state.policy_params,
        state.policy_step_state,
        prepared.batch,
        hparams,
        parts.config,
    )
    info = _complete(info)
    finite = trees.all_finite((params, step_state))
    sound = prepared.on_policy & finite
    reason = jnp.where(
        prepared.on_policy & ~finite | jnp.isnan(prepared.on_policy_gap),
        StepStatus.NOT_FINITE,
        StepStatus.OFF_POLICY,
    )
    zero = {name: jnp.zeros_like(getattr(info, name)) for name in _ZERO if hasattr(info, name)}
    refused = info._replace(status=reason.astype(info.status.dtype), **zero)
    constraint = getattr(info, "constraint", None)
    if constraint is not None and constraint.change is not None:
        none = constraint._replace(change=jnp.zeros_like(constraint.change))
        refused = refused._replace(constraint=none)
    return (
        trees.select(sound & info.accepted, params, state.policy_params),
        trees.select(sound, step_state, state.policy_step_state),
        trees.select(prepared.on_policy & (finite | ~info.accepted), info, refused),
    )


_ZERO = ("accepted", "step_fraction", "kl", "improvement")
"""Fields that a refused step reports as zero."""


def _complete(info: Any) -> Any:
    """The report of a step, with all fields as arrays."""
    if not isinstance(info, TrustRegionInfo | StepInfo):
        raise ValueError(f"the policy step must return a StepInfo or TrustRegionInfo; got {info!r}")
    if info.status is None:
        status = jnp.where(info.accepted, StepStatus.ACCEPTED, StepStatus.REJECTED)
        info = info._replace(status=status.astype(jnp.int32))
    return jax.tree.map(jnp.asarray, info)
