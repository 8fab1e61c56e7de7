"""How the built-in networks begin: without LAPACK, and with one draw for all their kernels."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.policies.policy import Params


def bound(gain: float):
    """A kernel initialiser that returns a bound: √3 · gain / √fan_in, that of a uniform
    distribution with standard deviation gain / √fan_in. `draw` turns bounds into numbers.

    Not orthogonal: batched QR deadlocks the CPU client of jaxlib 0.10 when `init` is vmapped.
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        del key
        return jnp.full(shape, gain * (3 / math.prod(shape[:-1])) ** 0.5, dtype)

    return init


def draw(key: jax.Array, bounds: Params) -> Params:
    """Draw every kernel uniformly within its bounds; keep vectors (biases, log σ) unchanged.

    All kernels share one draw, because each separate draw takes a quarter of a second to compile.
    """
    leaves, structure = jax.tree.flatten(bounds)
    sizes = [leaf.size if leaf.ndim > 1 else 0 for leaf in leaves]
    noise = jax.random.uniform(key, (sum(sizes),), jnp.float32, -1.0, 1.0)
    parts = jnp.split(noise, list(itertools.accumulate(sizes))[:-1])
    drawn = [
        leaf * part.reshape(leaf.shape) if leaf.ndim > 1 else leaf
        for leaf, part in zip(leaves, parts, strict=True)
    ]
    return jax.tree.unflatten(structure, drawn)
