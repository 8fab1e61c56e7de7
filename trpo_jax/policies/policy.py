"""The interface of policies and critics: pure functions, for any network."""

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
