"""MuJoCo Playground's environments (playground >= 0.2)."""

import copy
import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from trpo_jax.envs.base import Environment
from trpo_jax.envs.brax import BraxEnvironment, _quietly, limited
from trpo_jax.envs.suites import lacks

with _quietly():
    from mujoco_playground._src import dm_control_suite, mjx_env, registry
    from mujoco_playground._src.mjx_env import MjxEnv

_IMPLS = ("jax", "warp")
_VELOCITY, _AXES = "torso_subtreelinvel", ("x_velocity", "y_velocity")


def list_ids() -> list[str]:
    """The ids of all environments, in Playground's order; robots need models that are fetched."""
    return list(registry.ALL_ENVS)


def robots() -> list[str]:
    """The ids of those whose models are not in Playground's package."""
    return [name for name in registry.ALL_ENVS if name not in dm_control_suite.ALL_ENVS]


def make(
    name: str,
    /,
    *,
    episode_length: int | None = None,
    action_repeat: int | None = None,
    impl: str = "jax",
    config_overrides: Mapping[str, Any] | None = None,
    **overrides,
) -> Environment:
    """An environment from its Playground id.

    `overrides` are fields of its configuration, such as `ctrl_dt`; `config_overrides` those with a
    dot in their name. `impl` is the implementation of MuJoCo, "jax" or "warp".
    """
    if (command := lacks("playground").get(name)) is not None:
        raise ValueError(f"the model of {name!r} must be fetched first: {command}")
    if impl not in _IMPLS:
        raise ValueError(f"impl={impl!r} is unknown; use one of {', '.join(_IMPLS)}")
    if impl == "warp" and importlib.util.find_spec("warp") is None:
        raise ValueError("impl='warp' needs a package that is missing: pip install warp-lang")
    config = registry.get_default_config(name)
    if "impl" in config:
        overrides["impl"] = impl
    overrides |= config_overrides or {}
    if unknown := [name for name in overrides if name.partition(".")[0] not in config]:
        raise ValueError(
            f"{', '.join(unknown)} cannot be set for {name!r}; the fields of its configuration are "
            f"{', '.join(sorted(config.keys()))}"
        )
    try:
        with _quietly():
            env = registry.load(name, config_overrides=overrides)
    except (KeyError, TypeError, ValueError) as error:
        what = str(error).partition("\n")[0]
        raise ValueError(f"environment {name!r} does not take {overrides}: {what}") from None
    return _limited(PlaygroundEnvironment(env, name), episode_length, action_repeat)


def from_object(
    env: Any, episode_length: int | None = None, action_repeat: int | None = None
) -> Environment:
    """An environment from an object of Playground."""
    if not isinstance(env, MjxEnv):
        raise ValueError(
            f"{env!r} is no environment of Playground; pass what registry.load returns"
        )
    return _limited(PlaygroundEnvironment(env), episode_length, action_repeat)


def _limited(
    env: "PlaygroundEnvironment", episode_length: int | None, action_repeat: int | None
) -> Environment:
    """The environment with the time limit and action repeat of its configuration, or others."""
    config = getattr(env.unwrapped.unwrapped, "_config", {})
    if action_repeat is None:
        action_repeat = int(config.get("action_repeat", 1))
    if episode_length is None:
        episode_length = config.get("episode_length")
    return limited(env, episode_length, action_repeat)


class PlaygroundEnvironment(BraxEnvironment):
    """An environment of MuJoCo Playground; its interface is that of brax.

    Each episode starts from a fresh initial state.
    """

    _model = "_mjx_model"
    _measures_velocity = False

    def __init__(self, env: Any, name: str | None = None):
        super().__init__(env, name or type(env.unwrapped).__name__)

    def measuring(self, names: Sequence[str]) -> "PlaygroundEnvironment":
        """The same with the metrics `x_velocity` and `y_velocity`, if its model has the sensor of
        dm_control for the velocity of the centre of mass."""
        model = self.unwrapped.unwrapped.mj_model
        sensors = [model.sensor(number).name for number in range(model.nsensor)]
        other = copy.copy(self)
        other._measures_velocity = _VELOCITY in sensors and bool(set(names) & set(_AXES))
        return other

    def step(self, key: jax.Array, state: Any, action: jax.Array):
        """One step."""
        state, step = super().step(key, state, action)
        if not self._measures_velocity:
            return state, step
        model = self.unwrapped.unwrapped.mj_model
        velocity = mjx_env.get_sensor_data(model, state.data, _VELOCITY)
        return state, step._replace(metrics=step.metrics | dict(zip(_AXES, velocity, strict=False)))
