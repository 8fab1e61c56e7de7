"""Random numbers for small programs on a CPU.

JAX lowers Threefry to a loop on CPUs, which keeps compilation short. For a few numbers per call the
loop's own cost is most of the time. Here its twenty rounds are written out, and XLA fuses them to
one kernel.
"""

import math

import jax
import jax.extend.random
import jax.numpy as jnp

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def for_small_draws(key: jax.Array) -> jax.Array:
    """The same key, drawing the same numbers by the same algorithm, but faster if they are few.

    Only for JAX's default keys; any other is returned as it is.
    """
    if jax.random.key_impl(key) != "threefry2x32":
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key), impl=_IMPLEMENTATION)


def threefry2x32(
    key: tuple[jax.Array, jax.Array], counter: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Twenty rounds of Threefry-2x32 on uint32 arrays. Salmon et al. 2011, section 4.2."""
    schedule = (*key, key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    left, right = counter[0] + key[0], counter[1] + key[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            left = left + right
            right = (right << rotation) | (right >> (32 - rotation))
            right = left ^ right
        left = left + schedule[(group + 1) % 3]
        right = right + schedule[(group + 2) % 3] + jnp.uint32(group + 1)
    return left, right


def _counted(key: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Threefry of a key's data [2] at the counters 0, 1, …, in an array of some shape."""
    low = jnp.arange(math.prod(shape), dtype=jnp.uint32).reshape(shape)
    return threefry2x32((key[0], key[1]), (jnp.zeros_like(low), low))


def _random_bits(key: jax.Array, bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    if bit_width != 32:
        dtype = jnp.dtype(f"uint{bit_width}")
        return jax.random.bits(jax.random.wrap_key_data(key), shape, dtype)
    high, low = _counted(key, shape)
    return high ^ low


def _split(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jnp.stack(_counted(key, shape), axis=-1)


def _fold_in(key: jax.Array, data: int) -> jax.Array:
    counter = jnp.zeros((), jnp.uint32), jnp.asarray(data).astype(jnp.uint32)
    return jnp.stack(threefry2x32((key[0], key[1]), counter))


def _seed(seed: jax.Array) -> jax.Array:
    return jax.random.key_data(jax.random.key(seed))


_IMPLEMENTATION = jax.extend.random.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="threefry2x32_unrolled",
    tag="fryu",
)
