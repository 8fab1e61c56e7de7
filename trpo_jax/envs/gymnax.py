"""gymnax environments (gymnax >= 1.0), and gymnax-style objects."""

from typing import Any

import jax
import jax.numpy as jnp

from trpo_jax.common.checks import require_whole_number
from trpo_jax.envs.base import Environment, EnvStep
from trpo_jax.envs.deferred import deferred
from trpo_jax.envs.parameterized import ParameterizedEnvironment
from trpo_jax.envs.wrappers import transformed
from trpo_jax.spaces import (
    ActionSpace,
    Box,
    Discrete,
    MultiDiscrete,
    policy_part,
    shapes_of,
)

with deferred("seaborn", "matplotlib.pyplot"):
    import gymnax
    from gymnax.environments import spaces
    from gymnax.environments.environment import Environment as GymnaxBase

REFUSED = {
    "MNISTBandit-bsuite": "it downloads its data when it is created; choose another environment",
}
"""Ids that cannot be trained, and why."""


def list_ids() -> list[str]:
    """The ids of the environments that can be trained, in gymnax's order."""
    return [name for name in gymnax.registered_envs if name not in REFUSED]


def make(
    name: str, /, env_params: Any = None, episode_length: int | None = None, **kwargs
) -> Environment:
    """An environment from its gymnax id; `kwargs` go to its class."""
    if name in REFUSED:
        raise ValueError(f"environment {name!r} is refused: {REFUSED[name]}")
    try:
        env, default_params = gymnax.make(name, **kwargs)
    except TypeError as error:
        raise ValueError(f"environment {name!r} does not take {kwargs}: {error}") from None
    params = default_params if env_params is None else env_params
    return _limited(GymnaxEnvironment(env, params, name), episode_length)


def from_object(env: Any, env_params: Any = None, episode_length: int | None = None) -> Environment:
    """An environment from an object of gymnax, or in its style."""
    return _limited(GymnaxEnvironment(env, env_params), episode_length)


def _limited(env: "GymnaxEnvironment", episode_length: int | None) -> Environment:
    """The environment with another time limit: gymnax's own parameter, if it has that one."""
    if episode_length is None or not env.has_time_limit:
        return transformed(env, episode_length=episode_length)
    require_whole_number("episode_length", episode_length)
    params = env.params.replace(max_steps_in_episode=episode_length)
    return GymnaxEnvironment(env.unwrapped, params, env.name)


class GymnaxEnvironment(ParameterizedEnvironment):
    """A gymnax environment with fixed parameters.

    `env_params` is the environment's parameter object, or a dict of the fields that differ from
    its defaults. Observations from a Discrete space become one-hot vectors.
    """

    def __init__(self, env: Any, env_params: Any = None, name: str | None = None):
        self.name = str(name or getattr(env, "name", type(env).__name__))
        self._env = env
        self._params = merge_params(env, env_params, self.name)
        self._one_hot_size = _one_hot_size(_space(env.observation_space, self._params))
        self._bare = _is_bare(env)
        _, obs = jax.eval_shape(self.reset, jax.random.key(0))
        self.obs_shape = shapes_of(policy_part(obs))
        self.action_space = _action_space(_space(env.action_space, self._params), self.name)
        limit = getattr(self._params, "max_steps_in_episode", None)
        self.max_episode_steps = None if limit is None else int(limit)

    @property
    def unwrapped(self) -> Any:
        """The gymnax environment."""
        return self._env

    @property
    def has_time_limit(self) -> bool:
        """Whether gymnax truncates at `max_steps_in_episode`."""
        return self._bare and hasattr(self._params, "max_steps_in_episode")

    def reset(self, key: jax.Array):
        """Start an episode."""
        reset = self._env.reset_env if self._bare else self._env.reset
        obs, state = reset(key, self._params)
        return state, self._encode(obs)

    def step(self, key: jax.Array, state: Any, action: jax.Array):
        """One step without gymnax's own automatic reset.

        If a wrapper replaced `step`, that is called instead, and whatever it resets by itself is
        reset once more.
        """
        action = self._decode(action)
        if self._bare:
            obs, state, reward, terminated, _ = self._env.step_env(key, state, action, self._params)
            truncated = self._env.is_truncated(state, self._params)
        else:
            obs, state, reward, terminated, truncated = self._wrapped_step(key, state, action)
        return state, EnvStep(self._encode(obs), reward, terminated, truncated)

    def _wrapped_step(self, key, state, action):
        returned = self._env.step(key, state, action, self._params)
        if len(returned) != 6 or "final_observation" not in returned[-1]:
            raise ValueError(
                f"step of {self.name} hides the observation before its automatic reset; return "
                "(obs, state, reward, terminated, truncated, info) with "
                "info['final_observation'], as gymnax 1.0 does, or subclass trpo_jax.Environment"
            )
        _, state, reward, terminated, truncated, info = returned
        return info["final_observation"], state, reward, terminated, truncated

    def _encode(self, obs: jax.Array) -> jax.Array:
        if self._one_hot_size is not None:
            return jax.nn.one_hot(obs, self._one_hot_size, dtype=jnp.float32)
        return obs

    def _decode(self, action: jax.Array) -> Any:
        is_tuple = isinstance(self.action_space, MultiDiscrete)
        return tuple(jnp.unstack(action)) if is_tuple else action


def _is_bare(env: Any) -> bool:
    """Whether reset and step are gymnax's own, so that their parts can be called directly."""
    kind = type(env)
    return (
        isinstance(env, GymnaxBase)
        and kind.step is GymnaxBase.step
        and kind.reset is GymnaxBase.reset
    )


def merge_params(env: Any, env_params: Any, name: str) -> Any:
    """The parameters of an environment, from a parameter object, a dict of fields, or None."""
    if env_params is None and hasattr(env, "default_params"):
        return env.default_params
    if env_params is None or isinstance(env_params, str | int | float | list):
        raise ValueError(
            f"env_params={env_params!r} of {name} must be its parameter object, or a dict of the "
            "fields that differ from its default_params if it has them"
        )
    if not isinstance(env_params, dict):
        return env_params
    defaults: Any = getattr(env, "default_params", None)
    if not hasattr(defaults, "replace"):
        raise ValueError(
            f"env_params={env_params} of {name} is a dict of fields, but default_params={defaults} "
            "has none to replace; pass a whole parameter object"
        )
    try:
        return defaults.replace(**env_params)
    except TypeError:
        known = ", ".join(vars(defaults))
        raise ValueError(f"env_params={env_params} of {name}: the fields are {known}") from None


def _space(space: Any, params: Any) -> Any:
    """A space, from gymnax's method of the parameters or from a plain attribute."""
    return space(params) if callable(space) else space


def _one_hot_size(space: Any) -> int | None:
    return int(space.n) if _is_discrete(space) else None


def _is_discrete(space: Any) -> bool:
    """Whether a space is gymnax's Discrete, or one of another library that has its attributes."""
    return isinstance(space, spaces.Discrete) or (
        type(space).__name__ == "Discrete" and getattr(space, "start", 0) == 0
    )


def _action_space(space: Any, name: str) -> ActionSpace:
    if _is_discrete(space):
        return Discrete(int(space.n))
    if isinstance(space, spaces.Box) or type(space).__name__ == "Box":
        shape = tuple(int(size) for size in space.shape)
        return Box(space.low, space.high, shape)
    if isinstance(space, spaces.Tuple) and all(map(_is_discrete, space.spaces)):
        return MultiDiscrete(tuple(int(part.n) for part in space.spaces))
    raise ValueError(
        f"action space {space} of {name} is not supported; Discrete, Box and Tuple of Discrete are"
    )
