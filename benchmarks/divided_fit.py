"""A value fit whose minibatches are split over the devices: what `fit_value` is compared with."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree


def divided_fit(
    key: jax.Array, params: Any, apply, obs: jax.Array, target: jax.Array, *,
    num_epochs: int, minibatch_size: int,
) -> Any:  # fmt: skip
    """Every device shuffles its own rows and gives its part of each minibatch."""
    parts, batch_size = jax.device_count(), target.shape[0]
    start, unravel = ravel_pytree(params)
    adam = optax.scale_by_adam()

    def minibatches(key: jax.Array, leaf: jax.Array) -> jax.Array:
        rows = leaf.reshape(parts, batch_size // parts, *leaf.shape[1:])
        rows = rows[:, jax.random.permutation(key, batch_size // parts)]
        cut = rows.reshape(parts, -1, minibatch_size // parts, *leaf.shape[1:])
        return cut.swapaxes(0, 1).reshape(-1, minibatch_size, *leaf.shape[1:])

    def loss(flat: jax.Array, rows: tuple[jax.Array, jax.Array]) -> jax.Array:
        return jnp.mean((apply(unravel(flat), rows[0]) - rows[1]) ** 2)

    def step(carry, rows):
        flat, state = carry
        direction, state = adam.update(jax.grad(loss)(flat, rows), state)
        return (flat - 1e-3 * direction, state), None

    def epoch(carry, key):
        return jax.lax.scan(step, carry, (minibatches(key, obs), minibatches(key, target)))

    keys = jax.random.split(key, num_epochs)
    (fitted, _), _ = jax.lax.scan(epoch, (start, adam.init(start)), keys)
    return unravel(fitted)
