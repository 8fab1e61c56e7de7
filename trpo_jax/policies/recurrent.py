"""The built-in actor and critic with memory: a body, a memory cell, and a head or a value."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from trpo_jax.policies.distributions import Distribution
from trpo_jax.policies.initializers import draw
from trpo_jax.policies.networks import Body, last_layer
from trpo_jax.policies.policy import Carry, Params, RecurrentCritic, RecurrentPolicy
from trpo_jax.spaces import Observation, policy_part


class RecurrentActor(nn.Module):
    """A body, then a memory, then a head."""

    body: Body
    memory: Any
    """One of `CELLS`."""
    head: nn.Module

    def __call__(self, carry: Carry, obs: Any, reset: jax.Array) -> tuple[Distribution, Carry]:
        """The action distributions [T, N] of a sequence of observations, and the last memory."""
        mask = obs.action_mask if isinstance(obs, Observation) else None
        features, carry = self.memory(carry, self.body(policy_part(obs)), reset)
        return self.head(features, mask), carry


class RecurrentValueNetwork(nn.Module):
    """A body, then a memory, then one linear output."""

    body: Body
    memory: Any
    """One of `CELLS`."""

    @nn.compact
    def __call__(self, carry: Carry, obs: Any, reset: jax.Array) -> tuple[jax.Array, Carry]:
        """V of every step, [T, N], and the last memory."""
        features, carry = self.memory(carry, self.body(obs), reset)
        return last_layer(1, 1.0)(features)[..., 0], carry


def make_recurrent_policy(body: Body, memory: Any, head: nn.Module) -> RecurrentPolicy:
    """A policy with the given body, memory cell and head."""
    actor = RecurrentActor(body, memory, head)
    actor_apply: Callable[..., Any] = actor.apply

    def apply_with_units(params: Params, carry: Carry, obs: Any, reset: jax.Array):
        returned, captured = actor_apply(params, carry, obs, reset, mutable=["intermediates"])
        units = captured.get("intermediates", {}).get("body", {}).get("units", ())
        return *returned, [leaf.reshape(*reset.shape, *leaf.shape[1:]) for leaf in units]

    return RecurrentPolicy(
        init=_initializer(actor, memory),
        initial_carry=memory.initial_carry,
        apply=actor_apply,
        apply_with_units=apply_with_units,
    )


def make_recurrent_critic(body: Body, memory: Any) -> RecurrentCritic:
    """A critic with the given body and memory cell."""
    network = RecurrentValueNetwork(body, memory)
    value_apply: Callable[..., Any] = network.apply
    return RecurrentCritic(
        init=_initializer(network, memory),
        initial_carry=memory.initial_carry,
        apply=value_apply,
    )


def _initializer(network: nn.Module, memory: Any) -> Callable[[jax.Array, Any], Params]:
    def init(key: jax.Array, obs: Any) -> Params:
        sequence = jax.tree.map(lambda leaf: leaf[None, None], obs)
        begins = jnp.zeros((1, 1), bool)
        return draw(key, network.init(key, memory.initial_carry(1), sequence, begins))

    return init
