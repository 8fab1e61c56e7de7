"""Sums and maps over a batch of examples, all at once or in micro-batches to bound memory."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.common.trees import Tree


def micro_batch(chunk_size: int | None, batch_size: int) -> int | None:
    """The micro-batch size, or None if the whole batch fits in one. The only place that decides."""
    return None if chunk_size is None or chunk_size >= batch_size else chunk_size


def batch_sum(
    fn: Callable[[Tree, jax.Array], Tree], batch: Tree, weight: jax.Array, chunk_size: int | None
) -> Tree:
    """fn(batch, weight), where `fn` is a sum over examples; accumulated over micro-batches.

    Leaves of `batch` and `weight` have a leading axis B. With a `chunk_size`, a `scan` adds up the
    micro-batches. Its body is rematerialised, so derivatives too hold the intermediate values of
    only one micro-batch. The last micro-batch is padded with examples of weight zero, so the sum
    is exact for every size.
    """
    chunk_size = micro_batch(chunk_size, weight.shape[0])
    if chunk_size is None:
        return fn(batch, weight)
    chunks = split(batch, chunk_size), split(weight, chunk_size, padding="constant")
    fn = jax.checkpoint(fn)

    def accumulate(total: Tree, chunk: tuple[Tree, jax.Array]):
        return jax.tree.map(jnp.add, total, fn(*chunk)), None

    shapes = jax.eval_shape(fn, *jax.tree.map(lambda leaf: leaf[0], chunks))
    zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(accumulate, zero, chunks)[0]


def map_chunks(
    fn: Callable[[Tree], tuple[Tree, Tree]], batch: Tree, chunk_size: int | None
) -> tuple[Tree, Tree]:
    """Apply fn(micro-batch) -> (one row per example, a summary) to every micro-batch in turn.

    Returns rows [B, …] and summaries [chunks, …]. The last micro-batch is padded with copies of
    its last example, so a summary must not change under repetition; a maximum, for example.
    """
    batch_size = jax.tree.leaves(batch)[0].shape[0]
    chunk_size = micro_batch(chunk_size, batch_size)
    if chunk_size is None:
        rows, summary = fn(batch)
        return rows, jax.tree.map(lambda leaf: leaf[None], summary)
    rows, summaries = jax.lax.map(jax.checkpoint(fn), split(batch, chunk_size))
    return jax.tree.map(
        lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:batch_size], rows
    ), summaries


def in_chunks(apply: Callable[[Any, Tree], Tree], chunk_size: int | None):
    """Wrap apply(params, inputs [B, …]) -> [B, …] to run in micro-batches if B > chunk_size."""

    def chunked(params: Any, inputs: Tree) -> Tree:
        return map_chunks(lambda chunk: (apply(params, chunk), ()), inputs, chunk_size)[0]

    return chunked


def split(batch: Tree, chunk_size: int, padding: str = "edge") -> Tree:
    """Reshape leaves [B, …] to [chunks, chunk_size, …], padded at the end."""

    def split_leaf(leaf: jax.Array) -> jax.Array:
        num_chunks = -(-leaf.shape[0] // chunk_size)
        missing = num_chunks * chunk_size - leaf.shape[0]
        padded = jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1), mode=padding)
        return padded.reshape(num_chunks, chunk_size, *leaf.shape[1:])

    return jax.tree.map(split_leaf, batch)
