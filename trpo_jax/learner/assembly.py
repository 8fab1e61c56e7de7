"""Put the parts of an agent together and check that they fit, before anything is compiled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.config import TRPOConfig
from trpo_jax.envs.base import Environment, cost_names, observation_spec, some_action
from trpo_jax.envs.checks import require_promises
from trpo_jax.learner.algorithms import POLICY_STEPS, VALUE_FITS
from trpo_jax.learner.foreign import ROWS, foreign_critic, foreign_policy, tried
from trpo_jax.learner.memory import learns_sequences
from trpo_jax.learner.parts import Parts, PolicyStep, ValueFit
from trpo_jax.learner.policy_step import as_policy_step
from trpo_jax.policies.defaults import default_critic, default_policy
from trpo_jax.policies.distributions import to_box
from trpo_jax.policies.policy import Critic, Policy, RecurrentCritic, RecurrentPolicy
from trpo_jax.spaces import Box, critic_view, policy_part, policy_view, shapes_of


def assemble(
    env: Environment,
    config: TRPOConfig,
    policy_step: Callable[..., Any] | PolicyStep | None,
    policy: Policy | RecurrentPolicy | None,
    critic: Critic | RecurrentCritic | None,
    value_fit: ValueFit | None,
) -> Parts:
    """The parts of an agent: those given, completed with those that the configuration names.

    Raises `ValueError` if the environment does not satisfy its interface or a part does not fit.
    """
    require_promises(env)
    given = {
        "policy_step": policy_step, "policy": policy, "critic": critic, "value_fit": value_fit
    }  # fmt: skip
    spec = observation_spec(env)
    parts = Parts(
        env=env,
        config=config,
        policy=foreign_policy(policy, config)
        if policy
        else default_policy(env.action_space, shapes_of(policy_part(spec)), config),
        critic=foreign_critic(critic)
        if critic
        else default_critic(shapes_of(critic_view(spec)), config),
        policy_step=as_policy_step(policy_step or POLICY_STEPS[config.algorithm]),
        value_fit=value_fit or VALUE_FITS[config.value_optimizer],
        own=tuple(name for name, part in given.items() if part is not None),
    )
    _require_costs(parts)
    if learns_sequences(parts):
        config.minibatch_of(config.num_steps)
    if policy is not None:
        _require_policy_fits(parts)
    if critic is not None:
        _require_critic_fits(parts)
    return parts


def _require_costs(parts: Parts) -> None:
    """Raise `ValueError` if the policy step needs what environment or settings do not have."""
    own, algorithm = "policy_step" in parts.own, parts.config.algorithm
    if parts.policy_step.uses_costs and not cost_names(parts.env):
        what = "policy_step uses costs" if own else f"algorithm={algorithm!r} limits costs"
        raise ValueError(
            f"{what}, and {parts.env.name} has none; return EnvStep(…, cost=…) from its step, or "
            "limit a speed with make_env(…, velocity_limit=…)"
        )
    if algorithm == "cpo" and not (own or parts.config.line_search):
        raise ValueError(
            "line_search=False with algorithm='cpo', whose step is only accepted by its line "
            "search; leave it out"
        )


def example_observation(env: Environment) -> Any:
    """An observation of zeros, with a mask that allows every action."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), observation_spec(env))
    mask = getattr(zeros, "action_mask", None)
    return zeros if mask is None else zeros._replace(action_mask=jnp.ones_like(mask))


def _require_policy_fits(parts: Parts) -> None:
    """Raise `ValueError` unless a policy returns a distribution over the environment's actions."""
    space, key = parts.env.action_space, jax.random.key(0)
    distribution = tried(parts.policy, "policy", policy_view(example_observation(parts.env)))
    if parts.config.curvature == "gauss_newton" and not hasattr(distribution, "fisher_product"):
        raise ValueError(
            f"curvature='gauss_newton' needs fisher_product, which {type(distribution).__name__} "
            "lacks; use TRPOConfig(curvature='hvp')"
        )

    def outcome(distribution: Any) -> Any:
        action = distribution.sample(key)
        numbers = (
            distribution.log_prob(action),
            distribution.entropy(),
            distribution.kl(distribution),
        )
        boxed = to_box(distribution, action, space) if isinstance(space, Box) else action
        return *numbers, boxed

    *numbers, action = jax.eval_shape(outcome, distribution)
    for name, number in zip(("log_prob", "entropy", "kl"), numbers, strict=True):
        if number.shape != (ROWS,):
            raise ValueError(
                f"{name} of {type(distribution).__name__} has shape {number.shape} for {ROWS} "
                f"observations; it must be [{ROWS}]: sum over action dimensions"
            )
    wanted = jax.eval_shape(lambda: jnp.stack([some_action(space)] * ROWS))
    if action.shape != wanted.shape:
        raise ValueError(
            f"policy draws actions of shape {action.shape} for {ROWS} observations; actions of "
            f"{space} have shape {wanted.shape}"
        )


def _require_critic_fits(parts: Parts) -> None:
    """Raise `ValueError` unless the critic returns one value per observation."""
    assert parts.critic is not None
    values = tried(parts.critic, "critic", critic_view(example_observation(parts.env)))
    if getattr(values, "shape", None) != (ROWS,):
        raise ValueError(
            f"critic returns {values} for {ROWS} observations; it must return [B] or [B, 1]"
        )
