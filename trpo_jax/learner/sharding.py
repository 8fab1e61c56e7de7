"""A training state on several devices: its environments spread, all the rest on every one of them.

The program does not change. What is summed over the batch (gradient, curvature products, surrogate,
KL, statistics) is summed over all devices by the compiler; what comes of it (parameters, conjugate
gradients, the decision of the line search) is the same on each of them.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trpo_jax.learner.types import TrainState


def shard_state(state: TrainState, mesh: Mesh) -> TrainState:
    """Put a state on the devices of a mesh; all functions of its agent then run on all of them.

    Environments, [N, ...], are spread in equal parts; parameters, statistics and keys are on
    every device. Of many states side by side, as `vmap` makes them, [lanes, ...], each device gets
    its part of the lanes instead, whole. Raises `ValueError` if the parts would not be equal.
    With several processes each of them passes the same state and a mesh of all their devices.
    """
    return jax.tree.map(_put, state, state_shardings(state, mesh))


def state_shardings(state: TrainState, mesh: Mesh) -> TrainState:
    """The sharding of every leaf of a state, or of its shapes, as `shard_state` places it."""
    # Placement is the compiler's choice here: explicit axes would ask for it at every operation.
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
    # Keys themselves cannot be put on devices of other processes; their data can.
    data = jax.device_put(jax.random.key_data(leaf), sharding)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))


def _everywhere(tree: Any, sharding: NamedSharding) -> Any:
    return jax.tree.map(lambda _: sharding, tree)


def require_equal_parts(name: str, number: int, mesh: Mesh) -> None:
    """Raise `ValueError` unless a number divides over the devices of a mesh."""
    if number % mesh.size:
        usable = [size for size in range(mesh.size, 0, -1) if number % size == 0]
        more = -(-number // mesh.size) * mesh.size
        raise ValueError(
            f"{name}={number} does not divide over {mesh.size} devices; use {name}={more} or "
            f"{usable[0]} device{'s' if usable[0] > 1 else ''}"
        )
