"""XLand-MiniGrid environments (xminigrid >= 0.9)."""

from typing import Any

import jax
import jax.numpy as jnp
import xminigrid
from xminigrid.core.constants import NUM_COLORS, NUM_LAYERS, NUM_TILES
from xminigrid.environment import Environment as XMiniGridBase

from trpo_jax.common.checks import require_whole_number
from trpo_jax.envs.base import EnvStep
from trpo_jax.envs.grids import one_hot_layers
from trpo_jax.envs.parameterized import ParameterizedEnvironment
from trpo_jax.spaces import Discrete, shapes_of

_NEEDS_RULES = "without rules it has no goal and every reward is 0; pass ruleset=…, a RuleSet"
REFUSED = {
    **{
        name: _NEEDS_RULES
        for name in xminigrid.registered_environments()
        if name.startswith("XLand-")
    },
    "MiniGrid-Playground": "it has no goal and every reward is 0; choose another environment",
}
"""Ids that cannot be trained as they are, and why."""

_SELF_RESETTING = ("GymAutoResetWrapper", "DmEnvAutoResetWrapper")


def list_ids() -> list[str]:
    """The ids of the environments that can be trained, in XLand-MiniGrid's order."""
    return [name for name in xminigrid.registered_environments() if name not in REFUSED]


def make(
    name: str, /, episode_length: int | None = None, one_hot: bool = True, **kwargs
) -> "XMiniGridEnvironment":
    """An environment from its XLand-MiniGrid id; `kwargs` are fields of its parameters.

    `episode_length` is its own `max_steps`, by which it also scales the reward for being quick.
    The XLand ids need a `ruleset`.
    """
    if name not in xminigrid.registered_environments():
        raise ValueError(
            f"environment {name!r} is unknown to XLand-MiniGrid; use one of list_ids()"
        )
    brings_rules = name.startswith("XLand-") and kwargs.get("ruleset") is not None
    if name in REFUSED and not brings_rules:
        raise ValueError(f"environment {name!r} is refused: {REFUSED[name]}")
    if episode_length is not None:
        kwargs = {"max_steps": episode_length, **kwargs}
    try:
        env, params = xminigrid.make(name, **kwargs)
    except TypeError as error:
        raise ValueError(f"environment {name!r} does not take {kwargs}: {error}") from None
    return XMiniGridEnvironment(env, params, one_hot, name)


def from_object(env: Any, env_params: Any = None, one_hot: bool = True) -> "XMiniGridEnvironment":
    """An environment from an object of XLand-MiniGrid's and its parameters."""
    return XMiniGridEnvironment(env, env_params, one_hot)


class XMiniGridEnvironment(ParameterizedEnvironment):
    """An XLand-MiniGrid environment with fixed parameters.

    `env_params` is its parameter object, or a dict of the fields that differ from its defaults.
    Observations, uint8 [view, view, 2], become one-hot bools [view, view, 25]: the tile (13) and
    colour (12) of each cell that the agent sees. `one_hot=False` leaves them as they are. The other
    parts that a wrapper adds are never changed. Its time limit, `max_steps`, truncates.
    """

    def __init__(
        self, env: Any, env_params: Any = None, one_hot: bool = True, name: str | None = None
    ):
        if not isinstance(env, XMiniGridBase):
            raise ValueError(f"{env!r} is not an XLand-MiniGrid environment; pass one without pair")
        self.name = name or _innermost_name(env)
        self._env = env
        self._params = _merge_params(env, env_params, self.name)
        require_whole_number(f"max_steps of {self.name}", self._params.max_steps)
        self._one_hot = one_hot
        self.action_space = Discrete(int(env.num_actions(self._params)))
        self.max_episode_steps = int(self._params.max_steps)
        _, obs = jax.eval_shape(self.reset, jax.random.key(0))
        self.obs_shape = shapes_of(obs)

    @property
    def unwrapped(self) -> Any:
        """The XLand-MiniGrid environment."""
        return self._env

    def reset(self, key: jax.Array):
        """Start an episode."""
        timestep = self._env.reset(self._params, key)
        return timestep, self._observe(timestep.observation)

    def step(self, key: jax.Array, state: Any, action: jax.Array):
        """One step; what is random in it comes from a key in the state."""
        del key
        timestep = self._env.step(self._params, state, action)
        ended, alive = timestep.last(), timestep.discount > 0
        return timestep, EnvStep(
            obs=self._observe(timestep.observation),
            reward=timestep.reward,
            terminated=ended & ~alive,
            truncated=ended & alive,
        )

    def _observe(self, obs: Any) -> Any:
        return jax.tree.map(self._encode, obs) if self._one_hot else obs

    def _encode(self, leaf: jax.Array) -> jax.Array:
        is_grid = leaf.dtype == jnp.uint8 and leaf.ndim == 3 and leaf.shape[-1] == NUM_LAYERS
        return one_hot_layers(leaf, (NUM_TILES, NUM_COLORS)) if is_grid else leaf


def _merge_params(env: Any, env_params: Any, name: str) -> Any:
    if env_params is None:
        return env.default_params()
    if not isinstance(env_params, dict):
        return env_params
    try:
        return env.default_params(**env_params)
    except TypeError:
        known = ", ".join(vars(env.default_params()))
        raise ValueError(f"env_params={env_params} of {name}: the fields are {known}") from None


def _innermost_name(env: Any) -> str:
    """The class beneath all wrappers; refuses those that reset by themselves."""
    while True:
        if type(env).__name__ in _SELF_RESETTING:
            raise ValueError(
                f"an environment is wrapped in {type(env).__name__}; pass the environment without "
                "it: trpo_jax does the automatic reset"
            )
        inner = vars(env).get("_env")
        if inner is None:
            return type(env).__name__
        env = inner
