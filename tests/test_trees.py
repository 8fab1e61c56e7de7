"""Trees as vectors, small and large."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from trpo_jax.solver import trees


@pytest.mark.parametrize("rows", [3, 400], ids=["small", "large"])
@pytest.mark.parametrize(
    "transform", [lambda f: f, jax.jit, jax.vmap, lambda f: jax.jit(jax.vmap(f))]
)
def test_a_vector_of_all_leaves_and_back(rows, transform):
    lanes = 2
    tree = {
        "kernel": jnp.arange(lanes * rows * 400.0).reshape(lanes, rows, 400),
        "scale": jnp.ones((lanes,)),
        "bias": jnp.arange(lanes * 3.0).reshape(lanes, 3),
    }
    flat = transform(lambda leaves: trees.ravel(leaves)[0])(tree)
    expected = jax.vmap(lambda leaves: ravel_pytree(leaves)[0])(tree)
    if flat.ndim == 1:
        expected = ravel_pytree(tree)[0]
    np.testing.assert_array_equal(flat, expected)


def test_large_leaves_of_two_precisions_come_back_in_their_own():
    tree = {"wide": jnp.ones((2, 2**16)), "narrow": jnp.ones((2**16,), jnp.bfloat16)}
    flat, unravel = trees.ravel(tree)
    assert flat.dtype == jnp.float32
    assert jax.tree.map(lambda leaf: leaf.dtype, unravel(flat)) == {
        "wide": jnp.float32,
        "narrow": jnp.bfloat16,
    }
