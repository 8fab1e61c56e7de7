"""States on disk, by orbax; random keys are stored as their data, and nothing is pickled."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp


def save_state(path: Path, state: Any) -> None:
    """Write a state (or any tree of arrays and keys) to a new directory `path`, atomically."""
    import orbax.checkpoint as ocp

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.resolve(), jax.tree.map(_without_key, state))


def load_state(path: Path, like: Any) -> Any:
    """Read a state that `save_state` wrote; `like` has its structure, shapes and types."""
    import orbax.checkpoint as ocp

    if not path.is_dir():
        raise ValueError(f"no state in {path}")
    template = jax.tree.map(_without_key, jax.eval_shape(lambda: like))
    with ocp.StandardCheckpointer() as checkpointer:
        stored = checkpointer.restore(path.resolve(), template)
    return jax.tree.map(_with_key, stored, like)


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_key(leaf: Any) -> Any:
    if not _is_key(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.random.key_data(leaf)


def _with_key(stored: Any, like: Any) -> Any:
    if not _is_key(like):
        return stored
    return jax.random.wrap_key_data(jnp.asarray(stored), impl=jax.random.key_impl(like))
