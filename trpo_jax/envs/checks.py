"""Does an environment keep the promises of `Environment`? Asked before anything is compiled."""

import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.config import require_whole_number
from trpo_jax.envs.base import (
    Box,
    Discrete,
    Environment,
    EnvStep,
    MultiDiscrete,
    like,
    strongly_typed,
)


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
    _check_attributes(env)
    _check_action_space(env)
    key = jax.eval_shape(lambda: jax.random.key(0))
    action = jax.eval_shape(lambda: _some_action(env.action_space))
    jax.eval_shape(functools.partial(_check_episode, env), key, action)


def _check_attributes(env: Environment) -> None:
    for attribute in ("name", "obs_shape", "action_space"):
        if not hasattr(env, attribute):
            raise ValueError(
                f"{type(env).__name__} has no {attribute}; see trpo_jax.Environment for what an "
                "environment must have"
            )
    shape = env.obs_shape
    if not isinstance(shape, tuple) or not shape or min(_whole_numbers(shape) or (0,)) < 1:
        raise ValueError(
            f"obs_shape={shape!r} of {env.name} must be a tuple of at least one size, such as (4,)"
        )
    if env.max_episode_steps is not None:
        require_whole_number(f"max_episode_steps of {env.name}", env.max_episode_steps)


def _check_action_space(env: Environment) -> None:
    space = env.action_space
    if isinstance(space, Discrete):
        sizes = _whole_numbers([space.num_actions])
    elif isinstance(space, MultiDiscrete):
        sizes = _whole_numbers(space.num_categories)
    elif isinstance(space, Box):
        sizes = _whole_numbers(space.shape)
    else:
        raise ValueError(
            f"action_space={space!r} of {env.name} must be a trpo_jax.Discrete, MultiDiscrete or "
            "Box"
        )
    if sizes is None:
        raise ValueError(
            f"action_space={space!r} of {env.name} must be counted in whole numbers, as "
            "Discrete(2), MultiDiscrete((2, 3)) and Box(-1, 1, (3,)) are"
        )
    fewest = min(sizes, default=1 if isinstance(space, Box) else 0)  # a Box may have shape ()
    if fewest < 1 or (isinstance(space, Box) and not _has_valid_bounds(space)):
        raise ValueError(
            f"action_space={space!r} of {env.name} has no actions; it needs at least one dimension "
            "with at least one choice, and bounds of its shape with low < high"
        )


def _whole_numbers(sizes: Any) -> tuple[int, ...] | None:
    """Sizes as they are in a tuple, list or array; None if they are anything else."""
    try:
        return tuple(operator.index(size) for size in sizes)
    except TypeError:
        return None


def _has_valid_bounds(space: Box) -> bool:
    try:
        low, high = (np.broadcast_to(bound, space.shape) for bound in (space.low, space.high))
    except ValueError:
        return False
    return _is_real(low.dtype) and _is_real(high.dtype) and bool(np.all(low < high))


def _check_episode(env: Environment, key: jax.Array, action: jax.Array) -> None:
    """What `reset` and one `step` return; traced alone, without a batch axis to hide in."""
    begun = env.reset(key)
    if not (isinstance(begun, tuple) and len(begun) == 2):
        raise ValueError(f"reset of {env.name} returns {begun!r}; it must return (state, obs)")
    state = _as_arrays(f"reset of {env.name}", begun[0])
    _check_array(f"reset of {env.name} returns observations", begun[1], env.obs_shape)
    copy = jax.tree.map(jnp.asarray, state)  # brax's step writes into the dictionaries it is given
    stepped = env.step(key, copy, action)
    if not (isinstance(stepped, tuple) and len(stepped) == 2 and isinstance(stepped[1], EnvStep)):
        raise ValueError(
            f"step of {env.name} returns {stepped!r}; it must return (state, trpo_jax.EnvStep(…))"
        )
    after, step = _as_arrays(f"step of {env.name}", stepped[0]), stepped[1]
    structures = [str(jax.tree.structure(tree)) for tree in (state, after)]
    if structures[0] != structures[1]:
        raise ValueError(
            f"the state of {env.name} has another structure after step than after reset: "
            f"{structures[1]} instead of {structures[0]}"
        )
    jax.tree.map(like, state, after)
    _check_array(f"step of {env.name} returns observations", step.obs, env.obs_shape)
    for field in ("reward", "terminated", "truncated"):
        _check_array(f"step of {env.name} returns {field}", getattr(step, field), ())


def _as_arrays(function: str, state: Any) -> Any:
    try:
        return jax.tree.map(strongly_typed, state)
    except TypeError as error:
        raise ValueError(
            f"{function} returns a state that is not a tree of arrays: {error}"
        ) from None


def _check_array(what: str, value: Any, shape: tuple[int, ...]) -> None:
    wanted = f"one array of shape obs_shape={shape}" if shape else "a scalar of shape ()"
    if isinstance(value, bool | int | float):
        value = np.asarray(value)
    if not isinstance(value, jax.Array | np.ndarray | np.generic) or not _is_real(value.dtype):
        raise ValueError(f"{what}={value!r}; {wanted} is needed, of real numbers or bools")
    if value.shape != shape:
        raise ValueError(f"{what} of shape {value.shape}; {wanted} is needed")


def _is_real(dtype: Any) -> bool:
    """Whether float32 can stand for it, as for whole numbers and bools but not for keys."""
    return isinstance(dtype, np.dtype) and np.can_cast(dtype, np.float32, "same_kind")


def _some_action(space: Any) -> jax.Array:
    if isinstance(space, Discrete):
        return jnp.zeros((), jnp.int32)
    if isinstance(space, MultiDiscrete):
        return jnp.zeros(len(space.num_categories), jnp.int32)
    return jnp.zeros(space.shape, jnp.float32)
