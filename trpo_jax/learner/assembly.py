"""Put the parts of an agent together and check that they fit, before anything is compiled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.config import TRPOConfig
from trpo_jax.envs.base import Environment, cost_names, observation_spec, some_action
from trpo_jax.envs.checks import require_promises
from trpo_jax.learner.algorithms import POLICY_STEPS, VALUE_FITS
from trpo_jax.learner.parts import Parts, PolicyStep, ValueFit
from trpo_jax.learner.policy_step import as_policy_step
from trpo_jax.policies.defaults import default_critic, default_policy
from trpo_jax.policies.distributions import DiagonalGaussian, require_distribution, to_box
from trpo_jax.policies.policy import Critic, Policy
from trpo_jax.spaces import Box, critic_view, policy_part, policy_view, shapes_of


def assemble(
    env: Environment,
    config: TRPOConfig,
    policy_step: Callable[..., Any] | PolicyStep | None,
    policy: Policy | None,
    critic: Critic | None,
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
        policy=_foreign_policy(policy, config)
        if policy
        else default_policy(env.action_space, shapes_of(policy_part(spec)), config),
        critic=_foreign_critic(critic)
        if critic
        else default_critic(shapes_of(critic_view(spec)), config),
        policy_step=as_policy_step(policy_step or POLICY_STEPS[config.algorithm]),
        value_fit=value_fit or VALUE_FITS[config.value_optimizer],
        own=tuple(name for name, part in given.items() if part is not None),
    )
    _require_costs(parts)
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


def _foreign_policy(policy: Policy, config: TRPOConfig) -> Policy:
    """A user's policy at the matrix precision of the built-in ones, so that an update recomputes
    the probabilities of the rollout, which are float32. A Gaussian is mapped into a Box as
    configured."""

    def finish(distribution: Any) -> Any:
        require_distribution(distribution, "policy")
        distribution = trees.widened(distribution)
        if isinstance(distribution, DiagonalGaussian):
            return distribution.replace(bounds=config.action_bounds)
        return distribution

    def apply(params: Any, obs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return finish(policy.apply(params, obs))

    def apply_with_units(params: Any, obs: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            distribution, units = policy.apply_with_units(params, obs)  # type: ignore[misc]
            return finish(distribution), units

    recorded = policy.apply_with_units is not None
    return Policy(policy.init, apply, apply_with_units if recorded else None)


def _foreign_critic(critic: Critic) -> Critic:
    """A user's critic at the matrix precision of the built-in ones, with float32 values [B]."""

    def apply(params: Any, obs: Any) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            values = trees.widened(critic.apply(params, obs))
        rows = jax.tree.leaves(obs)[0].shape[0]
        return values[..., 0] if getattr(values, "shape", None) == (rows, 1) else values

    return Critic(critic.init, apply)


_ROWS = 3


def _tried(part: Policy | Critic, name: str, example: Any) -> Any:
    """The shapes that a network returns for a few observations [B, ...]."""
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * _ROWS), example)
    params = _shapes_from(f"{name}.init", part.init, jax.random.key(0), example)
    if name == "policy" and not jax.tree.leaves(params):
        raise ValueError(
            f"policy.init returns {params!r}, no parameters that could be learned; give the module "
            "a layer, or a parameter of its own"
        )
    strange = [
        leaf for leaf in jax.tree.leaves(params) if not jnp.issubdtype(leaf.dtype, jnp.floating)
    ]
    if strange:
        raise ValueError(
            f"{name}.init returns a leaf of {strange[0].dtype}; parameters must be floating arrays"
        )
    return _shapes_from(f"{name}.apply", part.apply, params, batch)


def _shapes_from(name: str, function: Callable[..., Any], first: Any, obs: Any) -> Any:
    """What a network's function returns; its own errors in one line, with what it was given."""
    try:
        return jax.eval_shape(function, first, obs)
    except Exception as error:
        text = " ".join(str(error).split())
        if isinstance(error, ValueError) and text == str(error):
            raise  # such as those of `policy_from_flax`
        raise ValueError(
            f"{name} raises {type(error).__name__} for observations of shape {shapes_of(obs)}: "
            f"{text[:300]}; it must run under jit, and take such observations and nothing else"
        ) from error


def _require_policy_fits(parts: Parts) -> None:
    """Raise `ValueError` unless a policy returns a distribution over the environment's actions."""
    space, key = parts.env.action_space, jax.random.key(0)
    distribution = _tried(parts.policy, "policy", policy_view(example_observation(parts.env)))
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
        if number.shape != (_ROWS,):
            raise ValueError(
                f"{name} of {type(distribution).__name__} has shape {number.shape} for {_ROWS} "
                f"observations; it must be [{_ROWS}]: sum over action dimensions"
            )
    wanted = jax.eval_shape(lambda: jnp.stack([some_action(space)] * _ROWS))
    if action.shape != wanted.shape:
        raise ValueError(
            f"policy draws actions of shape {action.shape} for {_ROWS} observations; actions of "
            f"{space} have shape {wanted.shape}"
        )


def _require_critic_fits(parts: Parts) -> None:
    """Raise `ValueError` unless the critic returns one value per observation."""
    assert parts.critic is not None
    values = _tried(parts.critic, "critic", critic_view(example_observation(parts.env)))
    if getattr(values, "shape", None) != (_ROWS,):
        raise ValueError(
            f"critic returns {values} for {_ROWS} observations; it must return [B] or [B, 1]"
        )
