"""Float64 computation inside a float32 program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from trpo_jax.common import trees


def in_float64(fn: Callable[..., Any], returned: Any = jnp.float32) -> Callable[..., Any]:
    """Run `fn` with float64 enabled, and cast its results to the dtype `returned`.

    `fn` must cast to float64 whichever arguments it needs in float64, and must take all arrays as
    arguments and close over none. Works under `jit`, `scan` and any nesting of `vmap`, whether or
    not x64 is enabled outside. JAX's batching rules run outside the context in which a function
    was traced and would meet float64 there, so each level of `vmap` re-enters the context and
    traces `fn` again.
    """

    def island(*args):
        with jax.enable_x64(True):
            return trees.cast(fn(*args), returned)

    return _batchable(island)


def _batchable(island):
    call = custom_vmap(island)

    @call.def_vmap
    def _(axis_size, in_batched, *args):
        del axis_size
        axes = jax.tree.map(lambda batched: 0 if batched else None, in_batched)
        with jax.enable_x64(True):
            outputs = _batchable(jax.vmap(island, in_axes=axes))(*args)
        return outputs, jax.tree.map(lambda _: True, outputs)

    return call
