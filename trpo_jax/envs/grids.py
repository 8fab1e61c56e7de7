"""Observations of grid worlds."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def one_hot_layers(grid: jax.Array, sizes: Sequence[int]) -> jax.Array:
    """Whole numbers [..., layers] to bools [..., Σ sizes]: one-hot vectors of the layers, in order.

    Layer i holds the numbers 0 … sizes[i] − 1; any other becomes zeros. Such numbers are names
    (kinds of cells, colours), which a network learns from sooner if they are apart. Bools take as
    little memory as the bytes they come from.
    """
    layers = [jax.nn.one_hot(grid[..., i], n, dtype=bool) for i, n in enumerate(sizes)]
    return jnp.concatenate(layers, axis=-1)
