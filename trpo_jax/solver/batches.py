"""Weighted sums over a batch of examples, whole or in micro-batches that bound the memory."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from trpo_jax.solver.trees import Tree


def batch_sum(
    fn: Callable[[Tree, jax.Array], Tree], batch: Tree, weight: jax.Array, chunk_size: int | None
) -> Tree:
    """fn(batch, weight), where `fn` sums over the examples of what it is given.

    Leaves of `batch` and `weight` have a leading axis B. With a `chunk_size` the sum is
    accumulated over micro-batches by a `scan` whose body is rematerialised, so that derivatives
    too hold the intermediate values of one micro-batch only. A last, incomplete micro-batch is
    filled up with examples of weight zero: the sum is exact for every size.
    """
    batch_size = weight.shape[0]
    if chunk_size is None or chunk_size >= batch_size:
        return fn(batch, weight)
    num_chunks = -(-batch_size // chunk_size)
    padding = num_chunks * chunk_size - batch_size

    def split(leaf: jax.Array, mode: str) -> jax.Array:
        padded = jnp.pad(leaf, [(0, padding)] + [(0, 0)] * (leaf.ndim - 1), mode=mode)
        return padded.reshape(num_chunks, chunk_size, *leaf.shape[1:])

    chunks = jax.tree.map(lambda leaf: split(leaf, "edge"), batch), split(weight, "constant")
    fn = jax.checkpoint(fn)

    def accumulate(total: Tree, chunk: tuple[Tree, jax.Array]):
        return jax.tree.map(jnp.add, total, fn(*chunk)), None

    shapes = jax.eval_shape(fn, *jax.tree.map(lambda leaf: leaf[0], chunks))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(accumulate, zero, chunks)[0]
