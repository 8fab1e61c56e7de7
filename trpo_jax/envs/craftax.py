"""Craftax environments (craftax >= 1.6)."""

import contextlib
import os
import pickle
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from craftax import craftax_env

from trpo_jax.envs.base import EnvStep
from trpo_jax.envs.gymnax import merge_params
from trpo_jax.envs.parameterized import ParameterizedEnvironment
from trpo_jax.spaces import Discrete

_NEVER = np.iinfo(np.int32).max
_PREPARE_ANEW = "CRAFTAX_RELOAD_TEXTURES"


def list_ids() -> list[str]:
    """The ids of the environments."""
    return [
        f"Craftax-{game}{kind}-v1" for game in ("", "Classic-") for kind in ("Symbolic", "Pixels")
    ]


def make(
    name: str, /, env_params: Any = None, episode_length: int | None = None
) -> "CraftaxEnvironment":
    """An environment from its Craftax id."""
    return _limited(CraftaxEnvironment(_craftax_object(name), env_params, name), episode_length)


def _craftax_object(name: str) -> Any:
    """Craftax' environment. What it prints goes to stderr: on stdout commands write JSON.

    The first environment of pixels prepares its pictures, which takes a minute, and keeps them in a
    file. If an interrupted process left that file incomplete, it is written anew.
    """
    with contextlib.redirect_stdout(sys.stderr):
        try:
            return craftax_env.make_craftax_env_from_name(name, auto_reset=False)
        except (EOFError, OSError, pickle.UnpicklingError):
            os.environ[_PREPARE_ANEW] = "1"
        try:
            return craftax_env.make_craftax_env_from_name(name, auto_reset=False)
        finally:
            del os.environ[_PREPARE_ANEW]


def from_object(
    env: Any, env_params: Any = None, episode_length: int | None = None
) -> "CraftaxEnvironment":
    """An environment from an object of Craftax, with or without its automatic reset."""
    if not hasattr(env, "step_env"):
        raise ValueError(
            f"{env!r} is no environment of Craftax; pass what make_craftax_env_from_name returns"
        )
    return _limited(CraftaxEnvironment(env, env_params), episode_length)


def _limited(env: "CraftaxEnvironment", episode_length: int | None) -> "CraftaxEnvironment":
    """The environment with another time limit, a parameter of Craftax."""
    if episode_length is None:
        return env
    params = env.params.replace(max_timesteps=episode_length)
    return CraftaxEnvironment(env.unwrapped, params, env.name)


class CraftaxEnvironment(ParameterizedEnvironment):
    """A Craftax environment with fixed parameters, without automatic reset.

    `env_params` is Craftax' parameter object, or a dict of the fields that differ from its
    defaults. The time limit, `max_timesteps`, truncates; every other end terminates. The
    number of achievements so far in the episode is a metric.
    """

    costly_reset = True

    def __init__(self, env: Any, env_params: Any = None, name: str | None = None):
        self.name = name or env.name
        self._env = env
        self._params = merge_params(env, env_params, self.name)
        self.max_episode_steps = int(self._params.max_timesteps)
        self.action_space = Discrete(int(env.num_actions))
        self.obs_shape = tuple(env.observation_space(self._params).shape)

    @property
    def unwrapped(self) -> Any:
        """The Craftax environment."""
        return self._env

    def reset(self, key: jax.Array):
        """Start an episode in a new world."""
        obs, state = self._env.reset_env(key, self._params)
        return state, obs

    def step(self, key: jax.Array, state: Any, action: jax.Array):
        """One step."""
        obs, state, reward, done, _ = self._env.step_env(key, state, action, self._params)
        timeless = self._params.replace(max_timesteps=_NEVER)
        terminated = self._env.is_terminal(state, timeless)
        return state, EnvStep(
            obs=obs,
            reward=reward,
            terminated=terminated,
            truncated=done & ~terminated,
            metrics={"achievements": jnp.sum(state.achievements)},
        )
