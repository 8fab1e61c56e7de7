"""What a policy and a critic are: two pure functions each, whoever wrote the network."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any


class Policy(NamedTuple):
    """A policy π(a|s) as pure functions.

    `obs` is the observation as the environment gives it, without what is for the critic only: an
    array, a tree of arrays, or where actions are masked an `Observation` with `policy` and
    `action_mask`. Floating arrays are float32, normalised if the configuration says so.
    """

    init: Callable[[jax.Array, Any], Params]
    """(key, obs) -> params, from an example observation without batch axes."""
    apply: Callable[[Params, Any], Any]
    """(params, obs [B, ...]) -> `Distribution` with the axis B, whose mask is folded in."""
    apply_with_units: Callable[[Params, Any], tuple[Any, list[jax.Array]]] | None = None
    """The same, and the activations [B, ..., units] of every hidden layer, for the records of idle
    units. None: they are not recorded."""


class Critic(NamedTuple):
    """A value function V(s) as pure functions.

    `obs` is `Observation.critic` where there is one, else what the policy sees, without mask.
    """

    init: Callable[[jax.Array, Any], Params]
    """(key, obs) -> params, from an example observation without batch axes."""
    apply: Callable[[Params, Any], jax.Array]
    """(params, obs [B, ...]) -> values [B], or [B, 1]."""
