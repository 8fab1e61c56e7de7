"""The replaceable parts of an agent, and the bundle that is passed around."""

from collections.abc import Callable
from typing import Any, NamedTuple

from trpo_jax.config import TRPOConfig
from trpo_jax.envs.base import Environment
from trpo_jax.policies.policy import Critic, Policy, RecurrentCritic, RecurrentPolicy


class PolicyStep(NamedTuple):
    """A policy improvement. It may carry state from update to update, such as Adam's."""

    init: Callable[[Any], Any]
    """policy_params -> step state."""
    apply: Callable[..., tuple[Any, Any, Any]]
    """(key, objective, params, state, batch, hparams, config) -> (params, state, info).

    `objective` is a `trpo_jax.Objective` on `Batch`es; `info` is a `StepInfo`, or a
    `TrustRegionInfo` for a method with a trust region. The new state is kept even if
    `info.accepted` is false: the step decides what a rejection does to it.
    """
    uses_costs: bool = False
    """Whether `apply` needs `batch.costs`. Then a critic of the costs is fitted too, and the
    environment must have costs."""


class ValueFit(NamedTuple):
    """A regression of the critic. It may carry state from update to update, such as Adam's."""

    init: Callable[[Any], Any]
    """value_params -> fit state."""
    apply: Callable[..., tuple[Any, Any, Any]]
    """(key, predict, params, state, batch, hparams, config) -> (params, state, info).

    `predict(params, batch.critic_obs)` gives values [B], to be fitted to `batch.value_target` with
    weights `batch.weight`; `info` is a `ValueFitInfo`. A result that is not finite is rejected.
    """
    rejects_itself: bool = False
    """Whether `apply` returns what it was given if its result is not finite. Then nothing tests it
    again: XLA repeats such a test in the kernel of every leaf, which takes time to compile."""


class Parts(NamedTuple):
    """The parts of an agent; none is traced.

    Acting needs only the first three, so `rollout` works without the others.
    """

    env: Environment
    """The environment it acts in."""
    config: TRPOConfig
    """Settings that fix shapes, loop bounds and branches."""
    policy: Policy | RecurrentPolicy
    """π."""
    critic: Critic | RecurrentCritic = None  # type: ignore[assignment]
    """V."""
    policy_step: PolicyStep = None  # type: ignore[assignment]
    """How π is improved."""
    value_fit: ValueFit = None  # type: ignore[assignment]
    """How V is fitted."""
    own: tuple[str, ...] = ()
    """Names of the parts that were given to `make_trpo` rather than made from the configuration."""
