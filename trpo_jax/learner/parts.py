"""What an agent is made of: the parts that can be replaced, and the bundle that they travel in."""

from collections.abc import Callable
from typing import Any, NamedTuple

from trpo_jax.config import TRPOConfig
from trpo_jax.envs.base import Environment
from trpo_jax.policies.policy import Critic, Policy


class PolicyStep(NamedTuple):
    """A policy improvement. It may carry a state from update to update, such as Adam's."""

    init: Callable[[Any], Any]
    """policy_params -> step state."""
    apply: Callable[..., tuple[Any, Any, Any]]
    """(key, objective, params, state, batch, hparams, config) -> (params, state, info).

    `objective` is a `trpo_jax.Objective` on `Batch`es; `info` a `StepInfo`, or a
    `TrustRegionInfo` for a method with a trust region. The state goes on also when `info.accepted`
    is false: the step decides what a rejection means.
    """


class ValueFit(NamedTuple):
    """A regression of the critic. It may carry a state from update to update, such as Adam's."""

    init: Callable[[Any], Any]
    """value_params -> fit state."""
    apply: Callable[..., tuple[Any, Any, Any]]
    """(key, predict, params, state, batch, hparams, config) -> (params, state, info).

    `predict(params, batch.critic_obs)` gives values [B], to be fitted to `batch.value_target` under
    `batch.weight`; `info` is a `ValueFitInfo`. Parameters that are not finite are refused.
    """


class Parts(NamedTuple):
    """The parts of an agent; nothing in it is traced.

    Acting needs the first three only, so that `rollout` can be called without the others.
    """

    env: Environment
    """Where it acts."""
    config: TRPOConfig
    """Shapes, loop bounds, branches."""
    policy: Policy
    """π."""
    critic: Critic = None  # type: ignore[assignment]
    """V."""
    policy_step: PolicyStep = None  # type: ignore[assignment]
    """How π is improved."""
    value_fit: ValueFit = None  # type: ignore[assignment]
    """How V is fitted."""
    own: tuple[str, ...] = ()
    """Which of them were given to `make_trpo` instead of being made from the configuration."""
