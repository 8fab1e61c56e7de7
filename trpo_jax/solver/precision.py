"""A float64 island inside a float32 program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from trpo_jax.common import trees


def in_float64(fn: Callable[..., Any], returned: Any = jnp.float32) -> Callable[..., Any]:
    """Run `fn` where float64 exists, and cast what it returns to the dtype `returned`.

    `fn` casts those of its arguments that it wants in float64 by itself. It takes all its arrays as
    arguments and closes over none. Works under `jit`, `scan` and any
    nesting of `vmap`, whether or not x64 is enabled around it. The batching rules of JAX run
    outside the context in which a function was traced and would meet float64 there; hence each
    level of `vmap` re-enters the context and traces `fn` anew.
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
