"""Gymnasium's spaces as ours: encodings of observations, and of actions on their way back."""

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import jax
import numpy as np
from gymnasium import spaces

from trpo_jax.spaces import ActionSpace, Box, Discrete, MultiDiscrete

Encode = Callable[[Any], Any]


def observations(space: gymnasium.Space, name: str) -> tuple[Any, Encode | None]:
    """Shapes and types of encoded observations, a tree of `ShapeDtypeStruct`, and the encoding.

    Boxes keep their shape; uint8 stays uint8, other whole numbers become int32, floating numbers
    float32. Discrete parts become one-hot vectors, MultiBinary float32. Dict and Tuple are trees.
    The encoding is None where an array may be copied as it is. Raises `ValueError` for other
    spaces.
    """
    if isinstance(space, spaces.Dict):
        parts = {key: observations(part, name) for key, part in space.spaces.items()}
        encodes = {key: encode or np.asarray for key, (_, encode) in parts.items()}
        return (
            {key: spec for key, (spec, _) in parts.items()},
            lambda obs: {key: encode(obs[key]) for key, encode in encodes.items()},
        )
    if isinstance(space, spaces.Tuple):
        trees = [observations(part, name) for part in space.spaces]
        ways = [encode or np.asarray for _, encode in trees]
        return (
            tuple(spec for spec, _ in trees),
            lambda obs: tuple(encode(part) for encode, part in zip(ways, obs, strict=True)),
        )
    if isinstance(space, spaces.Box):
        shape = space.shape or (1,)
        spec = jax.ShapeDtypeStruct(shape, _kept_type(space.dtype))
        return spec, None if space.shape else lambda obs: np.reshape(obs, (1,))
    if isinstance(space, spaces.MultiBinary):
        return jax.ShapeDtypeStruct(space.shape, np.float32), None
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        size = spaces.flatdim(space)

        def one_hot(obs: Any) -> np.ndarray:
            return np.asarray(spaces.flatten(space, obs), np.float32)

        return jax.ShapeDtypeStruct((size,), np.float32), one_hot
    raise ValueError(
        f"observation space {space} of {name} is not supported; Box, Discrete, MultiDiscrete, "
        "MultiBinary, and Dict and Tuple of these are"
    )


def _kept_type(dtype: Any) -> Any:
    if dtype == np.uint8 or dtype == np.bool_:
        return np.dtype(dtype)
    return np.dtype(np.int32 if np.issubdtype(dtype, np.integer) else np.float32)


def actions(space: gymnasium.Space, name: str) -> tuple[ActionSpace, Encode]:
    """Our action space, and the way from an array of its actions to a sequence of those of `space`.

    Offsets of Discrete are added; MultiBinary, and Tuple and Dict of discrete parts, become
    MultiDiscrete. Raises `ValueError` for other spaces.
    """
    if isinstance(space, spaces.Box):
        shape = space.shape

        def box_actions(chosen: np.ndarray) -> np.ndarray:
            whole = np.issubdtype(space.dtype, np.integer)
            exact = (np.rint(chosen) if whole else chosen).reshape(-1, *shape).astype(space.dtype)
            return np.clip(exact, space.low, space.high)  # a float32 bound may lie outside

        return Box(space.low, space.high, shape), box_actions
    if isinstance(space, spaces.Discrete):
        start = int(space.start)
        return Discrete(int(space.n)), lambda chosen: (chosen.astype(int) + start).tolist()
    parts = list(_discrete_parts(space, name))
    sizes = tuple(size for part_sizes, _ in parts for size in part_sizes)
    return MultiDiscrete(sizes), lambda chosen: [_rebuild(space, list(one)) for one in chosen]


def flat_mask(mask: Any, space: gymnasium.Space) -> np.ndarray:
    """A mask in Gymnasium's form, nested like the action space, as one vector of bools."""
    if isinstance(space, spaces.Dict) and isinstance(mask, dict):
        return np.concatenate([flat_mask(mask[key], part) for key, part in space.spaces.items()])
    if isinstance(space, spaces.Tuple) and isinstance(mask, tuple | list):
        return np.concatenate([flat_mask(*pair) for pair in zip(mask, space.spaces, strict=True)])
    if isinstance(mask, tuple | list):
        return np.concatenate([np.ravel(part) for part in mask]).astype(bool)
    return np.ravel(mask).astype(bool)


def _discrete_parts(space: gymnasium.Space, name: str) -> Any:
    """For each discrete part of an action space, its numbers of choices."""
    if isinstance(space, spaces.Discrete):
        yield (int(space.n),), space
    elif isinstance(space, spaces.MultiDiscrete):
        yield tuple(int(n) for n in np.ravel(space.nvec)), space
    elif isinstance(space, spaces.MultiBinary):
        yield (2,) * int(np.prod(space.shape)), space
    elif isinstance(space, spaces.Tuple):
        for part in space.spaces:
            yield from _discrete_parts(part, name)
    elif isinstance(space, spaces.Dict):
        for part in space.spaces.values():
            yield from _discrete_parts(part, name)
    else:
        raise ValueError(
            f"action space {space} of {name} is not supported; Discrete, MultiDiscrete, "
            "MultiBinary, Box, and Tuple and Dict of discrete parts are"
        )


def _rebuild(space: gymnasium.Space, choices: list[Any]) -> Any:
    """An action of `space` from the choices of its parts, which are taken from the list."""
    if isinstance(space, spaces.Discrete):
        return int(choices.pop(0)) + int(space.start)
    if isinstance(space, spaces.Tuple):
        return tuple(_rebuild(part, choices) for part in space.spaces)
    if isinstance(space, spaces.Dict):
        return {key: _rebuild(part, choices) for key, part in space.spaces.items()}
    shape = space.shape or ()
    size = math.prod(shape)
    taken, choices[:] = choices[:size], choices[size:]
    array = np.reshape(np.asarray(taken), shape).astype(space.dtype)
    return array + space.start if isinstance(space, spaces.MultiDiscrete) else array
