"""Running statistics of observations and returns, and means that take weights."""

import jax
import jax.numpy as jnp
from flax import struct

_EPSILON = 1e-8
_CLIP = 10.0


class RunningStatistics(struct.PyTreeNode):
    """Count, mean and variance of everything seen so far, element by element."""

    count: jax.Array
    """float32 []: examples seen, by weight."""
    mean: jax.Array
    """float32 [*shape]."""
    variance: jax.Array
    """float32 [*shape]; 1 before anything was seen."""


def init_statistics(shape: tuple[int, ...]) -> RunningStatistics:
    """Statistics of nothing: normalising with them only clips to ±10."""
    return RunningStatistics(
        count=jnp.zeros((), jnp.float32),
        mean=jnp.zeros(shape, jnp.float32),
        variance=jnp.ones(shape, jnp.float32),
    )


def update_statistics(
    statistics: RunningStatistics, values: jax.Array, weight: jax.Array
) -> RunningStatistics:
    """Merge values [..., *shape] with weights [...] of the same leading axes.

    Chan, Golub & LeVeque 1979, eq. 2.1. If the result is not finite the old statistics stay.
    """
    axes = tuple(range(weight.ndim))
    weight = weight.reshape(weight.shape + (1,) * statistics.mean.ndim)
    added = jnp.sum(weight)
    batch_mean = jnp.sum(weight * values, axis=axes) / jnp.maximum(added, 1)
    batch_squares = jnp.sum(weight * (values - batch_mean) ** 2, axis=axes)

    count = statistics.count + added
    share = added / jnp.maximum(count, 1)
    shift = batch_mean - statistics.mean
    squares = (
        statistics.variance * statistics.count + batch_squares + shift**2 * statistics.count * share
    )
    merged = RunningStatistics(
        count=count,
        mean=statistics.mean + shift * share,
        variance=squares / jnp.maximum(count, 1),
    )
    finite = jnp.isfinite(merged.mean).all() & jnp.isfinite(merged.variance).all() & (added > 0)
    return jax.tree.map(lambda new, old: jnp.where(finite, new, old), merged, statistics)


def normalize(statistics: RunningStatistics, values: jax.Array) -> jax.Array:
    """(values − mean) / deviation, clipped to ±10; values [..., *shape]."""
    scale = jax.lax.rsqrt(statistics.variance + _EPSILON)
    return jnp.clip((values - statistics.mean) * scale, -_CLIP, _CLIP)


def scale_by_deviation(statistics: RunningStatistics, values: jax.Array) -> jax.Array:
    """values / deviation, clipped to ±10: the sign of a reward is kept."""
    return jnp.clip(values * jax.lax.rsqrt(statistics.variance + _EPSILON), -_CLIP, _CLIP)


def discounted_returns(
    carried: jax.Array, reward: jax.Array, done: jax.Array, gamma: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """The running return Rₜ = rₜ + γ Rₜ₋₁ of every environment, [N] and [T, N].

    It is used first and reset to zero after the step that ends an episode.
    """

    def advance(running: jax.Array, step: tuple[jax.Array, jax.Array]):
        step_reward, step_done = step
        running = step_reward + gamma * running
        return jnp.where(step_done, 0, running), running

    return jax.lax.scan(advance, carried, (reward, done))


def weighted_mean_and_deviation(
    values: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of values [B] under weights [B]; 0 and 0 for no weight."""
    total = jnp.maximum(jnp.sum(weight), 1e-8)
    mean = jnp.sum(weight * values) / total
    return mean, jnp.sqrt(jnp.sum(weight * (values - mean) ** 2) / total)
