"""Does an environment keep the promises of `Environment`? Asked before anything is compiled."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.envs.base import Box, Discrete, Environment, EnvStep, MultiDiscrete


def check_is_environment(env: Any) -> None:
    """Raise `ValueError` unless `env` is an `Environment` that can be hashed."""
    if not isinstance(env, Environment):
        raise ValueError(
            f"env={env!r} is not a trpo_jax.Environment; make one by trpo_jax.make_env(…)"
        )
    try:
        hash(env)
    except TypeError:
        raise ValueError(
            f"{type(env).__name__} cannot be hashed, but programs are kept by environment; "
            "declare it with @dataclass(eq=False), or without dataclass"
        ) from None


def check_environment(env: Environment) -> None:
    """Raise `ValueError` with a remedy if `env` cannot be trained; nothing is run for it."""
    _check_shape(env)
    _check_action_space(env)
    _check_functions(env)


def _check_shape(env: Environment) -> None:
    shape = env.obs_shape
    sizes = isinstance(shape, tuple) and all(isinstance(size, int | np.integer) for size in shape)
    if not sizes or not shape or min(shape) < 1:
        raise ValueError(
            f"obs_shape={shape!r} of {env.name} must be a tuple of at least one size, such as (4,)"
        )


def _check_action_space(env: Environment) -> None:
    space = env.action_space
    if isinstance(space, Discrete):
        valid = space.num_actions >= 1
    elif isinstance(space, MultiDiscrete):
        valid = len(space.num_categories) >= 1 and min(space.num_categories) >= 1
    elif isinstance(space, Box):
        valid = _is_valid_box(space)
    else:
        raise ValueError(
            f"action_space={space!r} of {env.name} must be a trpo_jax.Discrete, MultiDiscrete or "
            "Box"
        )
    if not valid:
        raise ValueError(
            f"action_space={space!r} of {env.name} has no actions; it needs at least one dimension "
            "with at least one choice, and bounds of its shape with low < high"
        )


def _is_valid_box(space: Box) -> bool:
    try:
        low = np.broadcast_to(np.asarray(space.low), space.shape)
        high = np.broadcast_to(np.asarray(space.high), space.shape)
    except ValueError:
        return False
    return space.num_dimensions >= 1 and bool(np.all(low < high))


def _check_functions(env: Environment) -> None:
    """`reset` and `step` by their shapes alone."""

    def episode(key: jax.Array, action: jax.Array) -> tuple[Any, Any]:
        state, obs = env.reset(key)
        stepped = env.step(key, state, action)
        if not (isinstance(stepped, tuple) and isinstance(stepped[-1], EnvStep)):
            raise ValueError(f"step of {env.name} must return (state, trpo_jax.EnvStep(…))")
        after, step = stepped
        structures = [str(jax.tree.structure(tree)) for tree in (state, after)]
        if structures[0] != structures[1]:
            raise ValueError(
                f"the state of {env.name} has another structure after step than after reset: "
                f"{structures[1]} instead of {structures[0]}"
            )
        return obs, step.obs

    keys = jax.eval_shape(lambda: jax.random.key(0))
    action = jax.eval_shape(lambda: _some_action(env.action_space))
    for name, obs in zip(("reset", "step"), jax.eval_shape(episode, keys, action), strict=True):
        if tuple(obs.shape) != tuple(env.obs_shape):
            raise ValueError(
                f"{name} of {env.name} returns observations of shape {tuple(obs.shape)}, but "
                f"obs_shape is {env.obs_shape}"
            )


def _some_action(space: Any) -> jax.Array:
    if isinstance(space, Discrete):
        return jnp.zeros((), jnp.int32)
    if isinstance(space, MultiDiscrete):
        return jnp.zeros(len(space.num_categories), jnp.int32)
    return jnp.zeros(space.shape, jnp.float32)
