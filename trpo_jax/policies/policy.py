"""The interface of policies and critics: pure functions, for networks with or without memory."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any


class Policy(NamedTuple):
    """A policy π(a|s) as pure functions.

    `obs` is the environment's observation without the critic's part: an array, a tree of arrays,
    or, if actions are masked, an `Observation` with `policy` and `action_mask`. Floating arrays are
    float32, normalised if the configuration says so.
    """

    init: Callable[[jax.Array, Any], Params]
    """(key, obs) -> params, from an example observation without batch axes."""
    apply: Callable[[Params, Any], Any]
    """(params, obs [B, ...]) -> `Distribution` with batch axis B and the mask folded in."""
    apply_with_units: Callable[[Params, Any], tuple[Any, list[jax.Array]]] | None = None
    """As `apply`, but also returns the activations [B, ..., units] of each hidden layer, to record
    inactive units. None: these are not recorded."""


class Critic(NamedTuple):
    """A value function V(s) as pure functions.

    `obs` is `Observation.critic` if the environment gives one, else what the policy sees, without
    the mask.
    """

    init: Callable[[jax.Array, Any], Params]
    """(key, obs) -> params, from an example observation without batch axes."""
    apply: Callable[[Params, Any], jax.Array]
    """(params, obs [B, ...]) -> values [B], or [B, 1]."""


Carry = Any
"""What a network with memory holds from step to step: a tree of floating arrays [N, ...]."""


class RecurrentPolicy(NamedTuple):
    """A policy π(a|history) as pure functions: it goes through sequences and carries a memory.

    A sequence has T steps of N environments, time first. Observations are as in `Policy`.
    """

    init: Callable[[jax.Array, Any], Params]
    """(key, obs) -> params, from an example observation without time and batch axes."""
    initial_carry: Callable[[int], Carry]
    """n -> the memories of n environments at the beginning of an episode, leaves [n, ...]."""
    apply: Callable[[Params, Carry, Any, jax.Array], tuple[Any, Carry]]
    """(params, carry [N, ...], obs [T, N, ...], reset bool [T, N]) -> (`Distribution` with axes
    [T, N], carry after the last step). Where `reset` is set the memory starts anew before that
    step takes its observation in."""
    apply_with_units: Callable[..., tuple[Any, Carry, list[jax.Array]]] | None = None
    """As `apply`, but also returns the activations [T, N, ..., units] of each hidden layer, to
    record inactive units. None: these are not recorded."""


class RecurrentCritic(NamedTuple):
    """A value function V(history) as pure functions; everything is as in `RecurrentPolicy`."""

    init: Callable[[jax.Array, Any], Params]
    """(key, obs) -> params, from an example observation without time and batch axes."""
    initial_carry: Callable[[int], Carry]
    """n -> the memories of n environments at the beginning of an episode, leaves [n, ...]."""
    apply: Callable[[Params, Carry, Any, jax.Array], tuple[jax.Array, Carry]]
    """(params, carry [N, ...], obs [T, N, ...], reset bool [T, N]) -> (values [T, N], carry)."""
