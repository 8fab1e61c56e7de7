"""A user's networks: brought to the precision of the built-in ones, and tried on a few zeros."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.config import TRPOConfig
from trpo_jax.learner.memory import Network, initial_carry, remembers
from trpo_jax.policies.distributions import DiagonalGaussian, require_distribution
from trpo_jax.policies.policy import Critic, Policy, RecurrentCritic, RecurrentPolicy
from trpo_jax.spaces import shapes_of

ROWS, STEPS = 3, 2
"""Environments and steps of a trial."""


def foreign_policy(policy: Policy | RecurrentPolicy, config: TRPOConfig) -> Any:
    """A user's policy at the matrix precision of the built-in ones, so that an update recomputes
    the probabilities of the rollout, which are float32. A Gaussian is mapped into a Box as
    configured."""

    def finish(distribution: Any) -> Any:
        require_distribution(distribution, "policy")
        distribution = trees.widened(distribution)
        if isinstance(distribution, DiagonalGaussian):
            return distribution.replace(bounds=config.action_bounds)
        return distribution

    def with_units(returned: Any) -> Any:
        return finish(returned[0]), *returned[1:]

    record: Any = policy.apply_with_units
    return policy._replace(
        apply=_precise("policy", policy, finish),
        apply_with_units=record and _at_precision(record, with_units),
    )


def foreign_critic(critic: Critic | RecurrentCritic) -> Any:
    """A user's critic at the matrix precision of the built-in ones, with float32 values [B]."""

    def apply(params: Any, obs: Any) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            values = trees.widened(critic.apply(params, obs))  # type: ignore[call-arg]
        rows = jax.tree.leaves(obs)[0].shape[0]
        return values[..., 0] if getattr(values, "shape", None) == (rows, 1) else values

    def finish(values: Any) -> Any:
        values = trees.widened(values)
        return values[..., 0] if getattr(values, "ndim", 0) == 3 else values

    if remembers(critic):
        return critic._replace(apply=_precise("critic", critic, finish))
    return Critic(critic.init, apply)


def _precise(name: str, network: Network, finish: Callable[[Any], Any]) -> Callable[..., Any]:
    """The `apply` of a network at the highest precision, with its outputs finished."""

    def finish_pair(returned: Any) -> Any:
        if not (isinstance(returned, tuple) and len(returned) == 2):
            what = "distribution" if name == "policy" else "values"
            raise ValueError(
                f"{name}.apply returns a {type(returned).__name__}; with a memory it must return "
                f"({what}, carry)"
            )
        return finish(returned[0]), returned[1]

    return _at_precision(network.apply, finish_pair if remembers(network) else finish)


def _at_precision(apply: Callable[..., Any], finish: Callable[[Any], Any]) -> Callable[..., Any]:
    def precise(*arguments: Any) -> Any:
        with jax.default_matmul_precision("highest"):
            return finish(apply(*arguments))

    return precise


def tried(part: Network, name: str, example: Any) -> Any:
    """The shapes that a network returns for a few observations [B, ...].

    One with a memory is given sequences, and its result is that of their last step.
    """
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
    batch = jax.tree.map(lambda leaf: jnp.stack([leaf] * ROWS), example)
    if not isinstance(part, RecurrentPolicy | RecurrentCritic):
        return _shapes_from(f"{name}.apply", part.apply, params, batch)
    return _tried_on_sequences(part, name, params, batch)


def _tried_on_sequences(
    part: RecurrentPolicy | RecurrentCritic, name: str, params: Any, batch: Any
) -> Any:
    sequence = jax.tree.map(lambda leaf: jnp.stack([leaf] * STEPS), batch)
    reset = jnp.zeros((STEPS, ROWS), bool)
    try:
        carry = initial_carry(part, ROWS)
    except Exception as error:
        raise ValueError(f"{name}.initial_carry({ROWS}) raises {error!r}") from error

    def run(params: Any, obs: Any) -> Any:
        return part.apply(params, carry, obs, reset)

    outputs, after = _shapes_from(f"{name}.apply", run, params, sequence)
    types = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), each) for each in (carry, after)]
    if types[0] != types[1]:
        raise ValueError(
            f"{name}.apply returns a carry of {types[1]}; it must be as that of initial_carry, "
            f"{types[0]}"
        )
    for leaf in jax.tree.leaves(outputs):
        if leaf.shape[:2] != (STEPS, ROWS):
            raise ValueError(
                f"{name}.apply returns an output of shape {leaf.shape} for observations [{STEPS}, "
                f"{ROWS}, ...]; it must begin with [{STEPS}, {ROWS}]"
            )
    return jax.eval_shape(lambda tree: jax.tree.map(lambda leaf: leaf[-1], tree), outputs)


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
