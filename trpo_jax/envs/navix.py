"""Navix environments (navix >= 0.7)."""

from typing import Any

import jax
import navix
from navix import observations

from trpo_jax.common.checks import require_whole_number
from trpo_jax.envs.base import Environment, EnvStep
from trpo_jax.envs.grids import one_hot_layers
from trpo_jax.spaces import Discrete, shapes_of

_LAYERS = (11, 6, 4)
"""Entities, colours, and states (directions, doors) in symbolic observations."""
_SYMBOLIC = (observations.symbolic, observations.symbolic_first_person)
_WITHOUT_SPRITES = (
    *_SYMBOLIC,
    observations.none,
    observations.categorical,
    observations.categorical_first_person,
)


def list_ids() -> list[str]:
    """The ids of the environments that can be trained, in Navix' order."""
    return list(navix.registry())


def make(
    name: str, /, episode_length: int | None = None, one_hot: bool = True, **kwargs
) -> "NavixEnvironment":
    """An environment from its Navix id; `kwargs`, such as `observation_fn`, go to its class.

    `episode_length` is Navix' own `max_steps`, 100 unless given.
    """
    if name not in navix.registry():
        raise ValueError(f"environment {name!r} is unknown to Navix; use one of list_ids()")
    if episode_length is not None:
        require_whole_number("episode_length", episode_length)
        kwargs = {"max_steps": episode_length, **kwargs}
    try:
        env = navix.make(name, **kwargs)
    except TypeError as error:
        raise ValueError(f"environment {name!r} does not take {kwargs}: {error}") from None
    return NavixEnvironment(env, one_hot, name)


def from_object(env: Any, one_hot: bool = True) -> "NavixEnvironment":
    """An environment from an object of Navix'."""
    return NavixEnvironment(env, one_hot)


class NavixEnvironment(Environment):
    """A Navix environment, stepped without its automatic reset.

    Symbolic observations, uint8 [height, width, 3], become one-hot bools [height, width, 21]:
    entity (11), colour (6) and state (4) of each cell. With `one_hot=False`, and from any other
    `observation_fn`, they stay as they are. Navix' time limit, `max_steps`, truncates.
    """

    def __init__(self, env: Any, one_hot: bool = True, name: str | None = None):
        if not isinstance(env, navix.Environment):
            raise ValueError(f"{env!r} is not a navix.Environment; pass the one beneath it")
        self.name = name or type(env).__name__
        self._env = env
        self._one_hot = one_hot and env.observation_fn in _SYMBOLIC
        self._needs_sprites = env.observation_fn not in _WITHOUT_SPRITES
        self.costly_reset = self._needs_sprites
        self.action_space = Discrete(len(env.action_set))
        self.max_episode_steps = int(env.max_steps)
        _, obs = jax.eval_shape(self.reset, jax.random.key(0))
        self.obs_shape = shapes_of(obs)

    @property
    def unwrapped(self) -> Any:
        """The Navix environment."""
        return self._env

    def reset(self, key: jax.Array):
        """Start an episode."""
        timestep = self._env.reset(key)
        return self._lean(timestep), self._observe(timestep)

    def step(self, key: jax.Array, state: Any, action: jax.Array):
        """One step; what is random in it comes from a key in the state."""
        del key
        timestep = self._env._step(state, action)
        return self._lean(timestep), EnvStep(
            obs=self._observe(timestep),
            reward=timestep.reward,
            terminated=timestep.is_termination(),
            truncated=timestep.is_truncation(),
        )

    def _lean(self, timestep: Any) -> Any:
        """Without the picture of the empty grid, 192 bytes a cell, where nothing is drawn."""
        if self._needs_sprites:
            return timestep
        return timestep.replace(state=timestep.state.replace(cache=None))

    def _observe(self, timestep: Any) -> jax.Array:
        obs = timestep.observation
        return one_hot_layers(obs, _LAYERS) if self._one_hot else obs
