"""A training state on several devices: environments split, everything else replicated.

The program does not change. The compiler turns sums over the batch (gradient, curvature products,
surrogate, KL, statistics) into sums over all devices. What follows from them (parameters, conjugate
gradients, the decision of the line search) is the same on every device.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trpo_jax.learner.types import TrainState


def shard_state(state: TrainState, mesh: Mesh) -> TrainState:
    """Put a state on the devices of a mesh; all functions of its agent then run on all of them.

    Environments, [N, ...], are split into equal parts; parameters, statistics and keys are
    replicated on every device. For a batch of states from `vmap`, [lanes, ...], each device gets
    its share of whole lanes instead. Raises `ValueError` if the parts would not be equal.
    With several processes, each passes the same state and a mesh of all their devices.
    """
    return jax.tree.map(_put, state, state_shardings(state, mesh))


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """The sharding that `shard_state` gives to every leaf of a state (or of its shapes)."""
    # The compiler chooses the placement: explicit axes would need it at every operation.
    mesh = Mesh(mesh.devices, mesh.axis_names)
    whole = NamedSharding(mesh, PartitionSpec())
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    if state.num_updates.ndim:
        require_equal_parts("lanes", state.num_updates.shape[0], mesh)
        return _everywhere(state, split)
    require_equal_parts("num_envs", state.actor.episodes.lengths.shape[0], mesh)
    episodes = jax.tree.map(lambda leaf: split if leaf.ndim else whole, state.actor.episodes)
    actor = _everywhere(state.actor, split).replace(episodes=episodes)
    return _everywhere(state, whole).replace(actor=actor)


def _put(leaf: jax.Array, sharding: NamedSharding) -> jax.Array:
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.device_put(leaf, sharding)
    # Keys cannot be put on devices of other processes, but their data can.
    data = jax.device_put(jax.random.key_data(leaf), sharding)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))


def _everywhere(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda _: sharding, tree)


def require_equal_parts(name: str, number: int, mesh: Mesh) -> None:
    """Raise `ValueError` unless the devices of a mesh divide `number`."""
    if number % mesh.size:
        usable = [size for size in range(mesh.size, 0, -1) if number % size == 0]
        more = -(-number // mesh.size) * mesh.size
        raise ValueError(
            f"{name}={number} does not divide over {mesh.size} devices; use {name}={more} or "
            f"{usable[0]} device{'s' if usable[0] > 1 else ''}"
        )
