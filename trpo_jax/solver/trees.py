"""Arithmetic on pytrees that optax does not have: exact dot products and tests for finiteness."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

Tree = Any

_LARGE = 2**17


def ravel(tree: Tree) -> tuple[jax.Array, Callable[[jax.Array], Tree]]:
    """All leaves as one vector, and the way back; `jax.flatten_util.ravel_pytree` otherwise.

    XLA on CPU concatenates a large vector element by element, in 40 ms for a million of them;
    written slice by slice it takes 0.3 ms.
    """
    flat, unravel = ravel_pytree(tree)
    if flat.size < _LARGE:
        return flat, unravel
    parts = [leaf.ravel().astype(flat.dtype) for leaf in jax.tree.leaves(tree)]
    flat, start = jnp.zeros_like(flat), 0
    for part in parts:
        flat = jax.lax.dynamic_update_slice(flat, part, (start,))
        start += part.size
    return flat, unravel


def dot(left: Tree, right: Tree) -> jax.Array:
    """⟨left, right⟩ summed over all leaves, at full precision on every device.

    Written as a sum of products: TF32 and bfloat16 units never see it.
    """
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), left, right)
    return functools.reduce(jnp.add, jax.tree.leaves(products) or [jnp.zeros(())])


def norm(tree: Tree) -> jax.Array:
    """Euclidean norm over all leaves."""
    return jnp.sqrt(dot(tree, tree))


def add_scaled(tree: Tree, scale: jax.Array | float, direction: Tree) -> Tree:
    """tree + scale · direction, leaf by leaf; dtypes stay those of `tree`."""
    return jax.tree.map(lambda x, d: (x + scale * d).astype(x.dtype), tree, direction)


def scaled(scale: jax.Array | float, tree: Tree) -> Tree:
    """scale · tree; dtypes stay."""
    return jax.tree.map(lambda x: (scale * x).astype(x.dtype), tree)


def select(condition: jax.Array, if_true: Tree, if_false: Tree) -> Tree:
    """One tree or the other, whole and bit for bit."""
    return jax.tree.map(lambda x, y: jnp.where(condition, x, y), if_true, if_false)


def all_finite(tree: Tree) -> jax.Array:
    """Whether every element of every inexact leaf is finite."""
    checks = [
        jnp.all(jnp.isfinite(leaf))
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    ]
    return functools.reduce(jnp.logical_and, checks, jnp.bool_(True))


def as_floating(tree: Tree) -> Tree:
    """Leaves as arrays of numbers that can be divided: whole numbers become floating ones."""

    def convert(leaf: Any) -> jax.Array:
        array = jnp.asarray(leaf)
        return array if jnp.issubdtype(array.dtype, jnp.inexact) else array.astype(float)

    return jax.tree.map(convert, tree)


def require_like(name: str, tree: Tree, like: Tree) -> None:
    """Raise `ValueError` unless a tree has the structure and the shapes of another."""
    shapes, wanted = (jax.tree.map(jnp.shape, each) for each in (tree, like))
    if shapes != wanted:
        raise ValueError(f"{name} has shapes {shapes}; they must be {wanted}")


def cast(tree: Tree, dtype: Any) -> Tree:
    """Floating leaves in another precision; everything else as it is."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )
