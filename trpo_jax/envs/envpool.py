"""EnvPool environments: many simulators in C++ threads, on the host."""

import copy
from collections.abc import Sequence
from typing import Any

import envpool
import jax
import numpy as np

from trpo_jax.envs import gymnasium_spaces
from trpo_jax.envs.base import EnvStep
from trpo_jax.envs.host import (
    HostEnvironment,
    Simulators,
    entry_of_info,
    names_of_metrics,
    step_buffers,
)
from trpo_jax.spaces import shapes_of


def list_ids() -> list[str]:
    """The ids that EnvPool lists."""
    return sorted(envpool.list_all_envs())


def make(
    name: str, /, *, episode_length: int | None = None, metrics: Any = (), **kwargs
) -> "EnvPoolEnvironment":
    """An environment from its EnvPool id; `kwargs`, such as `num_threads`, go to `envpool.make`.

    `episode_length` replaces the id's own time limit. `metrics` names entries of `info` that are
    reported.
    """
    for own in ("num_envs", "seed", "env_type", "batch_size"):
        if own in kwargs:
            raise ValueError(
                f"{own}={kwargs[own]!r} of {name} is set by trpo_jax: by num_envs of TRPOConfig, "
                "the key, and the number of simulators; leave it out"
            )
    if episode_length is not None:
        kwargs["max_episode_steps"] = int(episode_length)
    return EnvPoolEnvironment(name, metrics, kwargs)


class EnvPoolEnvironment(HostEnvironment):
    """What the pools of an environment have in common.

    Observations [channels, height, width] become [height, width, channels].
    """

    def __init__(self, name: str, metrics: Any, kwargs: dict[str, Any]):
        self.name, self._kwargs = name, kwargs
        self.metrics = names_of_metrics(metrics)
        probe = self._pool([0])
        spec, encode = gymnasium_spaces.observations(probe.observation_space, name)
        if encode is not None and not isinstance(spec, dict):
            raise ValueError(
                f"observation space {probe.observation_space} of {name} is not supported; Box and "
                "Dict of Box are"
            )
        self.obs_spec = jax.tree.map(_channels_last, spec)
        self.obs_shape = shapes_of(self.obs_spec)
        self.action_space, _ = gymnasium_spaces.actions(probe.action_space, name)
        self.action_type = probe.action_space.dtype
        limit = probe.spec.config.max_episode_steps
        self.max_episode_steps = int(limit) if 0 < limit < 2**31 - 1 else None
        probe.close()

    def simulators(self, seeds: np.ndarray) -> Simulators:
        """A pool with one environment per seed. Pools take seeds only when they are made."""
        return EnvPoolSimulators(self, self._pool([int(seed) for seed in seeds]))

    def measuring(self, names: Sequence[str]) -> "EnvPoolEnvironment":
        """The same, reporting these entries of `info` too, as far as a step has them."""
        probe = self._pool([0])
        probe.reset()
        space = probe.action_space
        info = probe.step(np.zeros((1, *space.shape), space.dtype))[-1]
        probe.close()
        other = copy.copy(self)
        found = [name for name in names if name in info]
        other.metrics = tuple(dict.fromkeys((*self.metrics, *found)))
        return other

    def _pool(self, seeds: list[int]) -> Any:
        try:
            return envpool.make(
                self.name, env_type="gymnasium", num_envs=len(seeds), seed=seeds, **self._kwargs
            )
        except (AssertionError, TypeError, ValueError, KeyError, RuntimeError) as error:
            raise ValueError(
                f"environment {self.name!r} cannot be made with {self._kwargs}: {error}"
            ) from None


class EnvPoolSimulators(Simulators):
    """A pool of M environments. Those that ended are reset at once, before their next step."""

    def __init__(self, env: EnvPoolEnvironment, pool: Any):
        self._env, self._pool = env, pool
        self._step = step_buffers(env, pool.config["num_envs"])
        self._obs = self._step.obs
        self._leaves = jax.tree.leaves(self._obs)

    def reset(self) -> Any:
        """Begin M episodes."""
        obs, info = self._pool.reset()
        self._store(info["env_id"], obs)
        return self._obs

    def step(self, actions: np.ndarray, rows: np.ndarray | None = None) -> EnvStep:
        """Step some of the environments."""
        actions = np.asarray(actions, self._env.action_type)
        ids = () if rows is None else (np.asarray(rows, np.int32),)
        obs, reward, terminated, truncated, info = self._pool.step(actions, *ids)
        stepped, kept = info["env_id"], self._step
        self._store(stepped, obs)
        kept.reward[stepped] = reward
        kept.terminated[stepped] = terminated
        kept.truncated[stepped] = truncated
        for name, values in kept.metrics.items():
            values[stepped] = entry_of_info(self._env, name, info)
        return kept

    def restart(self, mask: np.ndarray) -> Any:
        """Begin a new episode where `mask`."""
        obs, info = self._pool.reset(np.flatnonzero(mask).astype(np.int32))
        self._store(info["env_id"], obs)
        return self._obs

    def close(self) -> None:
        """Stop the threads of the pool."""
        self._pool.close()

    def _store(self, rows: np.ndarray, obs: Any) -> None:
        for buffer, leaf in zip(self._leaves, jax.tree.leaves(obs), strict=True):
            image = leaf.ndim == 4 and leaf.shape[1:] != buffer.shape[1:]
            buffer[rows] = (
                np.moveaxis(leaf, 1, -1) if image else leaf.reshape(-1, *buffer.shape[1:])
            )


def _channels_last(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    if len(leaf.shape) == 3 and leaf.dtype == np.uint8 and leaf.shape[0] < leaf.shape[1]:
        return jax.ShapeDtypeStruct((*leaf.shape[1:], leaf.shape[0]), leaf.dtype)
    return leaf
