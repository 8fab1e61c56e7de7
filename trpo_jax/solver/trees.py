"""Arithmetic on pytrees that optax does not have: exact dot products and tests for finiteness."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any


def dot(left: Tree, right: Tree) -> jax.Array:
    """⟨left, right⟩ summed over all leaves, at full precision on every device.

    Written as a sum of products: TF32 and bfloat16 units never see it.
    """
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), left, right)
    return functools.reduce(jnp.add, jax.tree.leaves(products))


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


def cast(tree: Tree, dtype: Any) -> Tree:
    """Floating leaves in another precision; everything else as it is."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )
