"""Gymnasium environments, by id, as objects or from functions; they step on the host."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import jax
import numpy as np

from trpo_jax.envs import gymnasium_spaces
from trpo_jax.envs.base import EnvStep
from trpo_jax.envs.host import (
    EnvironmentFailed,
    HostEnvironment,
    Simulators,
    entry_of_info,
    names_of_metrics,
    step_buffers,
)
from trpo_jax.spaces import Box, Discrete, MultiDiscrete, Observation, mask_size, shapes_of

_MASK = "action_mask"


def list_ids() -> list[str]:
    """The ids in Gymnasium's registry."""
    return sorted(gymnasium.registry)


def make(
    name: str, /, *, episode_length: int | None = None, metrics: Sequence[str] = (), **kwargs
) -> "GymnasiumEnvironment":
    """An environment from its Gymnasium id; `kwargs` go to `gymnasium.make`.

    `episode_length` replaces the id's own time limit. `metrics` names entries of `info` that are
    reported.
    """
    if episode_length is not None:
        kwargs["max_episode_steps"] = int(episode_length)
    return GymnasiumEnvironment(functools.partial(_make_one, name, **kwargs), name, metrics)


def from_object(env: gymnasium.Env, *, metrics: Sequence[str] = ()) -> "GymnasiumEnvironment":
    """An environment whose simulators are made after the specification of an object.

    The object itself is not used. Raises `ValueError` if it has no specification.
    """
    _refuse_vectorised(env)
    if env.spec is None:
        raise ValueError(
            f"{env} has no spec, and one object cannot become several: pass a function that makes "
            "one, make_env(lambda: MyEnv(…))"
        )
    spec, name = env.spec, env.spec.id
    return GymnasiumEnvironment(functools.partial(gymnasium.make, spec), name, metrics)


def from_function(
    function: Callable[[], gymnasium.Env], *, metrics: Sequence[str] = ()
) -> "GymnasiumEnvironment":
    """An environment whose simulators are made by a function, one per call."""
    return GymnasiumEnvironment(function, None, metrics)


class GymnasiumEnvironment(HostEnvironment):
    """What the simulators of a Gymnasium environment have in common.

    Its own time limit and its own flags stand as they are. An `action_mask` in `info` becomes the
    mask of the observation.
    """

    def __init__(
        self, make_one: Callable[..., gymnasium.Env], name: str | None, metrics: Sequence[str] = ()
    ):
        probe = make_one()
        _refuse_vectorised(probe)
        self.make_one = make_one
        self.name = name or (probe.spec.id if probe.spec else type(probe.unwrapped).__name__)
        self.metrics = names_of_metrics(metrics)
        try:
            spec, self.encode = gymnasium_spaces.observations(
                _space(probe, "observation_space", self.name), self.name
            )
            self.action_space, self.decode = gymnasium_spaces.actions(
                _space(probe, "action_space", self.name), self.name
            )
            info = _tried_reset(probe, self.name)
        finally:
            probe.close()
        if self.encode is None and isinstance(probe.observation_space, gymnasium.spaces.Box):
            announced = probe.observation_space
            self.observation_space = Box(announced.low, announced.high, announced.shape)
        self._render_modes = probe.metadata.get("render_modes", ())
        self.masked = _MASK in info and isinstance(self.action_space, Discrete | MultiDiscrete)
        self.obs_shape = shapes_of(spec)
        mask = jax.ShapeDtypeStruct((mask_size(self.action_space),), np.bool_)
        self.obs_spec = Observation(spec, action_mask=mask) if self.masked else spec
        limit = probe.spec.max_episode_steps if probe.spec else None
        self.max_episode_steps = limit or getattr(probe, "_max_episode_steps", None)

    def measuring(self, names: Sequence[str]) -> "GymnasiumEnvironment":
        """The same, reporting these entries of `info` too, as far as a step has them."""
        probe = self.make_one()
        try:
            probe.reset(seed=0)
            info = probe.step(probe.action_space.sample())[-1]
        finally:
            probe.close()
        other = copy.copy(self)
        found = [name for name in names if name in info]
        other.metrics = tuple(dict.fromkeys((*self.metrics, *found)))
        return other

    def drawn(self) -> "GymnasiumEnvironment | None":
        """The same with `render_mode="rgb_array"`, if it has that."""
        if "rgb_array" not in self._render_modes:
            return None
        other = copy.copy(self)
        other.make_one = functools.partial(self.make_one, render_mode="rgb_array")
        try:
            other.make_one().close()
        except TypeError:  # a function that does not take it
            return None
        return other

    def simulators(self, seeds: np.ndarray) -> Simulators:
        """One Gymnasium environment per seed, stepped one after the other."""
        return GymnasiumSimulators(self, seeds)


class GymnasiumSimulators(Simulators):
    """M Gymnasium environments in a list.

    Gymnasium's vector environments reset by themselves and copy every observation twice more; this
    loop is faster, resets when it is told to, and can step some of its environments.
    """

    def __init__(self, env: GymnasiumEnvironment, seeds: np.ndarray):
        self.envs = [env.make_one() for _ in seeds]
        if len({id(made.unwrapped) for made in self.envs}) < len(self.envs):
            raise EnvironmentFailed(
                f"the function that makes {env.name} returned the same object twice; it must make "
                "a new environment at each call"
            )
        self._accepted: set[tuple[Any, Any]] = set()
        self._env, self._seeds = env, [int(seed) for seed in seeds]
        self._step = step_buffers(env, len(self.envs))
        self._obs = self._step.obs
        policy = self._obs.policy if env.masked else self._obs
        self._simple = policy if env.encode is None else None
        self._leaves = jax.tree.leaves(policy)

    def reset(self) -> Any:
        """Begin M episodes, each with its seed."""
        for row, (env, seed) in enumerate(zip(self.envs, self._seeds, strict=True)):
            self._store(row, *env.reset(seed=seed))
        return self._obs

    def step(self, actions: np.ndarray, rows: np.ndarray | None = None) -> EnvStep:
        """Step some of the environments."""
        kept = self._step
        chosen = range(len(self.envs)) if rows is None else rows
        for action, row in zip(self._env.decode(actions), chosen, strict=True):
            obs, reward, terminated, truncated, info = self.envs[row].step(action)
            kept.reward[row] = self._number(reward)
            kept.terminated[row] = terminated
            kept.truncated[row] = truncated
            self._store(row, obs, info)
            for name, values in kept.metrics.items():
                values[row] = entry_of_info(self._env, name, info)
        return kept

    def restart(self, mask: np.ndarray) -> Any:
        """Begin a new episode where `mask`."""
        for row in np.flatnonzero(mask):
            self._store(int(row), *self.envs[row].reset())
        return self._obs

    def picture(self, row: int) -> np.ndarray:
        """What the environment's `render` returns."""
        return np.asarray(self.envs[row].render())

    def close(self) -> None:
        """Close all of them."""
        for env in self.envs:
            env.close()

    def _store(self, row: int, obs: Any, info: dict[str, Any]) -> None:
        if self._simple is not None:
            self._put(self._simple, row, obs)
        else:
            encoded = self._env.encode(obs)  # type: ignore[misc]
            for buffer, leaf in zip(self._leaves, jax.tree.leaves(encoded), strict=True):
                self._put(buffer, row, leaf)
        if self._env.masked:
            self._obs.action_mask[row] = gymnasium_spaces.flat_mask(
                info[_MASK], self.envs[row].action_space
            )

    def _put(self, buffer: np.ndarray, row: int, value: Any) -> None:
        """Write an observation, unless its shape or type is not the one announced."""
        value = np.asarray(value)
        if value.shape != buffer.shape[1:]:
            raise EnvironmentFailed(
                f"{self._env.name} returned an observation of shape {value.shape}; its "
                f"observation_space announces {buffer.shape[1:]}"
            )
        types = value.dtype, buffer.dtype
        if types not in self._accepted:
            if not np.can_cast(*types, "same_kind"):
                raise EnvironmentFailed(
                    f"{self._env.name} returned an observation of {value.dtype}; its "
                    f"observation_space announces {buffer.dtype}"
                )
            self._accepted.add(types)
        buffer[row] = value

    def _number(self, reward: Any) -> float:
        if isinstance(reward, float):
            return reward
        values = np.ravel(reward)
        if values.size != 1 or values.dtype.kind not in "fiub":
            raise EnvironmentFailed(
                f"{self._env.name} returned reward={reward!r}; it must be one number"
            )
        return float(values[0])


def _make_one(name: str, /, **kwargs: Any) -> gymnasium.Env:
    try:
        return gymnasium.make(name, **{"disable_env_checker": True, **kwargs})
    except gymnasium.error.DependencyNotInstalled as error:
        raise ValueError(f"environment {name!r} needs more packages: {error}") from None
    except gymnasium.error.Error as error:
        raise ValueError(f"environment {name!r} cannot be made: {error}") from None
    except TypeError as error:
        raise ValueError(f"environment {name!r} does not take {kwargs}: {error}") from None
    except Exception as error:
        raise ValueError(
            f"environment {name!r} cannot be made with {kwargs}: {type(error).__name__}: {error}"
        ) from error


def _space(env: gymnasium.Env, which: str, name: str) -> gymnasium.Space:
    space = getattr(env, which, None)
    if space is None:
        raise ValueError(f"{name} has no {which}; Gymnasium's environments must have one")
    return space


def _tried_reset(env: gymnasium.Env, name: str) -> dict[str, Any]:
    """The `info` of a reset."""
    try:
        returned = env.reset(seed=0)
    except Exception as error:
        raise ValueError(
            f"reset of {name} raised {type(error).__name__}: {error}; it must take seed= and "
            "return (obs, info)"
        ) from error
    if not (isinstance(returned, tuple) and len(returned) == 2 and isinstance(returned[1], dict)):
        raise ValueError(f"reset of {name} returned {returned!r}; it must return (obs, info)")
    return returned[1]


def _refuse_vectorised(env: Any) -> None:
    if not isinstance(env, gymnasium.Env):
        raise ValueError(
            f"{env!r} is a vector environment or none of Gymnasium's; pass the single environment: "
            "trpo_jax makes several of it and restarts those that end"
        )
    inner = env
    while isinstance(inner, gymnasium.Wrapper):
        if type(inner).__name__ in ("Autoreset", "AutoResetWrapper"):
            raise ValueError(
                f"{env} is wrapped in {type(inner).__name__}; pass the environment without it: "
                "trpo_jax restarts episodes itself and needs their final observations"
            )
        inner = inner.env
