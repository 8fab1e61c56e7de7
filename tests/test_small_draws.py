"""Keys for few numbers at a time draw the numbers of JAX's own keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trpo_jax.learner.small_draws import for_small_draws

KEY = jax.random.key(7)
DRAWS = {
    "bits": lambda key: jax.random.bits(key, (3, 5)),
    "bytes": lambda key: jax.random.bits(key, (3,), jnp.uint8),
    "uniform": lambda key: jax.random.uniform(jax.random.split(key)[1]),
    "normal": lambda key: jax.random.normal(key, (8, 3)),
    "gumbel": lambda key: jax.random.gumbel(key, (4,)),
    "categorical": lambda key: jax.random.categorical(key, jnp.zeros((5, 3))),
    "beta": lambda key: jax.random.beta(key, 2.0, 3.0, (4,)),
    "permutation": lambda key: jax.random.permutation(key, 7),
    "split": lambda key: jax.random.key_data(jax.random.split(key, (2, 3))),
    "fold_in": lambda key: jax.random.key_data(jax.random.fold_in(key, 9)),
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_numbers_are_those_of_jax(name):
    draw = DRAWS[name]
    assert jax.random.key_impl(for_small_draws(KEY)) != jax.random.key_impl(KEY)
    np.testing.assert_array_equal(draw(for_small_draws(KEY)), draw(KEY))


def test_under_vmap_and_jit():
    keys = jax.random.split(KEY, 3)
    quick = jax.jit(jax.vmap(lambda key: jax.random.normal(for_small_draws(key), (4,))))(keys)
    np.testing.assert_array_equal(quick, jax.vmap(lambda key: jax.random.normal(key, (4,)))(keys))


def test_other_keys_stay_as_they_are():
    other = jax.random.key(0, impl="rbg")
    assert for_small_draws(other) is other
