"""Flax modules with memory: one step of a linen module, scanned over sequences."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap

from trpo_jax.common import trees
from trpo_jax.policies.policy import Carry, Params, RecurrentPolicy
from trpo_jax.spaces import policy_part


def is_recurrent(module: Any) -> bool:
    """Whether a module takes a memory and returns it, like the cells of flax."""
    return isinstance(module, nn.Module) and hasattr(module, "initialize_carry")


def recurrent_policy(
    module: Any,
    method: str | None,
    with_own_parameters: Callable[[Params, Any], Params],
    as_distribution: Callable[[Any, Params, Any], Any],
) -> RecurrentPolicy:
    """A policy from a linen module (carry, obs [N, ...]) -> (carry, outputs) with the method
    `initialize_carry(rng, input_shape)`, as cells of flax have it.

    `with_own_parameters(params, outputs)` adds those that are not the module's, and
    `as_distribution(outputs, params, obs)` makes the distribution.
    """

    def initial_carry(number: int) -> Carry:
        return module.initialize_carry(jax.random.key(0), (number, 1))

    def one_step(params: Params, carry: Carry, obs: Any) -> Any:
        return module.apply({"params": params["params"]}, carry, obs, method=method)

    @sequential_vmap
    def init(key: jax.Array, obs: Any) -> Params:
        batch = jax.tree.map(lambda leaf: leaf[None], policy_part(obs))
        variables = module.init(key, initial_carry(1), batch, method=method)
        mutable = sorted(set(variables) - {"params", "intermediates"})
        if mutable:
            raise ValueError(
                f"{type(module).__name__} has mutable state ({', '.join(mutable)}), which would "
                "change the policy in mid-update; leave it out"
            )
        params = {"params": variables.get("params", {})}
        outputs = jax.eval_shape(one_step, params, initial_carry(1), batch)[1]
        return with_own_parameters(params, outputs)

    def apply(params: Params, carry: Carry, obs: Any, reset: jax.Array) -> tuple[Any, Carry]:
        fresh = initial_carry(reset.shape[1])

        def step(carry: Carry, row: Any) -> Any:
            seen, anew = row
            carry = jax.tree.map(
                lambda new, old: jnp.where(anew.reshape(-1, *(1,) * (old.ndim - 1)), new, old),
                fresh,
                carry,
            )
            return one_step(params, carry, seen)

        carry, outputs = jax.lax.scan(step, carry, (policy_part(obs), reset))
        return as_distribution(trees.widened(outputs), params, obs), carry

    return RecurrentPolicy(init=init, initial_carry=initial_carry, apply=apply)
