"""Flax modules with memory: one step of a module, scanned over sequences."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from trpo_jax.common import trees
from trpo_jax.policies.policy import Carry, Params

Begin = Callable[[int], Carry]
"""The memories of so many episodes that begin."""


def beginning(module: Any) -> Begin | None:
    """How the memory of a linen module, or of what a function `rngs -> nnx module` makes, begins;
    None without memory.

    Memories are those of flax's cells: linen modules have `initialize_carry(rng, input_shape)`, nnx
    modules `initialize_carry(input_shape, rngs)`.
    """
    if isinstance(module, nn.Module):
        if not hasattr(module, "initialize_carry"):
            return None
        return lambda number: module.initialize_carry(jax.random.key(0), (number, 1))
    from flax import nnx

    made: Any = nnx.eval_shape(lambda: nnx_module(module, 0))
    if not hasattr(made, "initialize_carry"):
        return None
    return lambda number: made.initialize_carry((number, 1), nnx.Rngs(0))


def nnx_module(make: Callable[[Any], Any], key: jax.Array | int) -> Any:
    """The module that a function `rngs -> nnx module` makes. Raises `ValueError` if it is none."""
    from flax import nnx

    module = make(nnx.Rngs(key))
    if not isinstance(module, nnx.Module):
        raise ValueError(f"{make!r} returns {module!r}; it must return an nnx module")
    return module


def over_time(
    step: Callable[[Params, Carry, Any], tuple[Carry, Any]], begin: Begin
) -> Callable[[Params, Carry, Any, jax.Array], tuple[Any, Carry]]:
    """(params, carry, obs [T, N, ...], reset [T, N]) -> (outputs [T, N, ...], last carry) from one
    step (params, carry, obs [N, ...]) -> (carry, outputs). Outputs become float32."""

    def apply(params: Params, carry: Carry, obs: Any, reset: jax.Array) -> tuple[Any, Carry]:
        fresh = begin(reset.shape[1])

        def advance(carry: Carry, row: Any) -> tuple[Carry, Any]:
            seen, anew = row
            carry = jax.tree.map(
                lambda new, old: jnp.where(anew.reshape(-1, *(1,) * (old.ndim - 1)), new, old),
                fresh,
                carry,
            )
            return step(params, carry, seen)

        carry, outputs = jax.lax.scan(advance, carry, (obs, reset))
        return trees.widened(outputs), carry

    return apply
