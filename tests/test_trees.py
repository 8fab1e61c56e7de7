"""Trees as vectors, small and large."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from jax.flatten_util import ravel_pytree

from trpo_jax.common import trees


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


class Model:
    """Equal by content; its text is an address."""

    def __init__(self, size):
        self.size = size

    def __eq__(self, other):
        return isinstance(other, Model) and self.size == other.size

    def __hash__(self):
        return hash(self.size)


class State(struct.PyTreeNode):
    obs: Any
    model: Model = struct.field(pytree_node=False, default=Model(3))


def test_equal_structures_do_not_differ_whatever_their_text_says():
    assert repr(Model(3)) != repr(Model(3))
    one, other = ([State({"a": 1, "b": None}, Model(3)), (2,)] for _ in range(2))
    assert trees.first_difference(one, other) is None
    assert trees.first_difference({"a": jnp.zeros(3)}, {"a": 2.0}) is None  # leaves do not count


@pytest.mark.parametrize(
    ("tree", "other", "words"),
    [
        (State((1,)), State((1,), Model(4)), "has other static data"),
        ([0, State(1)], [0, State(1, Model(4))], "[1] has other static data"),
        ({"b": 1, "a": 2}, {"b": 1}, "['a'] is in one only"),
        (State({"a": {"b": 1}}), State({"a": {"c": 1}}), ".obs['a']['b'] is in one only"),
        (State([1, 2, 3]), State([1, 2]), ".obs[2] is in one only"),
        (State([1]), {"obs": [1]}, "is a State in one and a dict in the other"),
        ({"a": [1]}, {"a": (1,)}, "['a'] is a list in one and a tuple in the other"),
        ({"a": None}, {"a": 1}, "['a'] is a NoneType in one and a int in the other"),
        ([{"a": 1}, {"a": 1}], [{"z": 1}, {"y": 1}], "[0]['a'] is in one only"),
    ],
)
def test_the_first_place_where_structures_differ(tree, other, words):
    assert trees.first_difference(tree, other) == words
