"""Running statistics of observations and returns, and weighted means."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import struct

from trpo_jax.common import trees

EPSILON = 1e-8
"""Added to a variance before its root is taken."""
CLIP = 10.0
"""Largest size of a normalised number."""


class RunningStatistics(struct.PyTreeNode):
    """Count, and elementwise mean and variance, of everything seen so far."""

    count: jax.Array
    """float32 []: total weight of the examples seen."""
    mean: Any
    """float32 [*shape]; for a tree the same tree, with None for leaves that are not floating."""
    variance: Any
    """Likewise; 1 before anything is seen."""


def init_statistics(shape: tuple[int, ...]) -> RunningStatistics:
    """Empty statistics of one array; normalising with them only clips to ±10."""
    return init_tree_statistics(jax.ShapeDtypeStruct(shape, jnp.float32))


def init_tree_statistics(spec: Any) -> RunningStatistics:
    """Empty statistics of a tree of `ShapeDtypeStruct`; masks and integers are left out."""

    def constant(value: float) -> Any:
        return jax.tree.map(
            lambda leaf: jnp.full(leaf.shape, value, jnp.float32) if _is_floating(leaf) else None,
            spec,
        )

    return RunningStatistics(
        count=jnp.zeros((), jnp.float32), mean=constant(0.0), variance=constant(1.0)
    )


def update_statistics(
    statistics: RunningStatistics, values: Any, weight: jax.Array
) -> RunningStatistics:
    """Merge values, leaves [..., *shape], with weights [...] of the same leading axes.

    If the result is not finite, the old statistics stay. Chan, Golub & LeVeque 1979, eq. 2.1.
    """
    added = jnp.sum(weight)
    count = statistics.count + added
    share = added / jnp.maximum(count, 1)

    def merge(value: jax.Array, mean: Any, variance: Any) -> Any:
        """(mean, variance) with the values of one leaf."""
        if mean is None:
            return None, None
        chex.assert_shape(value, (*weight.shape, *mean.shape))
        axes = tuple(range(weight.ndim))
        along = weight.reshape(weight.shape + (1,) * mean.ndim)
        batch_mean = jnp.sum(along * value, axis=axes) / jnp.maximum(added, 1)
        centred = value - jnp.expand_dims(batch_mean, axes)
        batch_squares = jnp.sum(along * centred**2, axis=axes)
        shift = batch_mean - mean
        squares = variance * statistics.count + batch_squares + shift**2 * statistics.count * share
        return mean + shift * share, squares / jnp.maximum(count, 1)

    leaves = jax.tree.leaves(values)
    structure: Any = jax.tree.structure(values)
    means, variances = map(structure.flatten_up_to, (statistics.mean, statistics.variance))
    merged_leaves = [merge(*each) for each in zip(leaves, means, variances, strict=True)]
    merged = RunningStatistics(
        count=count,
        mean=structure.unflatten([mean for mean, _ in merged_leaves]),
        variance=structure.unflatten([variance for _, variance in merged_leaves]),
    )
    finite = trees.all_finite((merged.mean, merged.variance)) & (added > 0)
    return trees.select(finite, merged, statistics)


def normalize(statistics: RunningStatistics, values: Any) -> Any:
    """(values − mean) / deviation, clipped to ±10; leaves [..., *shape].

    Leaves without statistics (masks and integers) are unchanged.
    """

    def standardize(value: jax.Array, mean: Any, variance: Any) -> jax.Array:
        if mean is None:
            return value
        lead = range(value.ndim - mean.ndim)
        scale = jnp.expand_dims(jax.lax.rsqrt(variance + EPSILON), lead)
        return jnp.clip((value - jnp.expand_dims(mean, lead)) * scale, -CLIP, CLIP)

    return jax.tree.map(standardize, values, statistics.mean, statistics.variance)


def _is_floating(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def scale_by_deviation(statistics: RunningStatistics, values: jax.Array) -> jax.Array:
    """values / deviation, clipped to ±10. Rewards keep their sign."""
    return jnp.clip(values * jax.lax.rsqrt(statistics.variance + EPSILON), -CLIP, CLIP)


def discounted_returns(
    carried: jax.Array, reward: jax.Array, done: jax.Array, gamma: jax.Array | float
) -> tuple[jax.Array, jax.Array]:
    """The running return Rₜ = rₜ + γ Rₜ₋₁ of each environment: the last, [N], and all, [T, N].

    It is reset to zero after the step that ends an episode.
    """
    chex.assert_rank([carried, reward, done], [1, 2, 2])
    chex.assert_equal_shape([reward, done])

    def advance(running: jax.Array, step: tuple[jax.Array, jax.Array]):
        step_reward, step_done = step
        running = step_reward + gamma * running
        return jnp.where(step_done, 0, running), running

    return jax.lax.scan(advance, carried, (reward, done))


def weighted_mean_and_deviation(
    values: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of values [B] with weights [B]; both 0 if all weights are 0."""
    chex.assert_equal_shape([values, weight])
    total = jnp.maximum(jnp.sum(weight), 1e-8)
    mean = jnp.sum(weight * values) / total
    return mean, jnp.sqrt(jnp.sum(weight * (values - mean) ** 2) / total)
