"""Pgx environments for one player (pgx >= 2.5)."""

from typing import Any

import jax
import numpy as np
import pgx

from trpo_jax.envs.base import Environment, EnvStep
from trpo_jax.spaces import Discrete, Observation

_TWO_OR_MORE = "it is a game for several players; choose 2048 or a MinAtar game"
_FOR_ONE = ("2048", "minatar-")
REFUSED = {name: _TWO_OR_MORE for name in pgx.available_envs() if not name.startswith(_FOR_ONE)}
"""Ids that cannot be trained, and why."""


def list_ids() -> list[str]:
    """The ids of the games for one player, in Pgx' order."""
    return [name for name in pgx.available_envs() if name not in REFUSED]


def make(name: str, /, **kwargs) -> "PgxEnvironment":
    """An environment from its Pgx id; `kwargs`, such as `sticky_action_prob`, go to its class."""
    if name not in pgx.available_envs():
        raise ValueError(f"environment {name!r} is unknown to Pgx; use one of list_ids()")
    if name in REFUSED:
        raise ValueError(f"environment {name!r} is refused: {REFUSED[name]}")
    env = pgx.make(name)
    try:
        env = type(env)(**kwargs) if kwargs else env
    except TypeError as error:
        raise ValueError(f"environment {name!r} does not take {kwargs}: {error}") from None
    return PgxEnvironment(env, name)


def from_object(env: Any) -> "PgxEnvironment":
    """An environment from an object of Pgx'."""
    return PgxEnvironment(env)


class PgxEnvironment(Environment):
    """A Pgx game for one player.

    Observations are bool images as they come. `legal_action_mask` becomes the mask, except in games
    such as MinAtar in which every action is always legal. An end is a termination unless Pgx calls
    it a truncation, which none of its games do: their own time limits terminate.
    """

    def __init__(self, env: Any, name: str | None = None):
        if not isinstance(env, pgx.Env):
            raise ValueError(f"{env!r} is not a pgx.Env; pass the one beneath it")
        self.name = name or str(env.id)
        if env.num_players != 1:
            raise ValueError(
                f"{self.name} is a game for {env.num_players} players; only games for one can be "
                "trained"
            )
        self._env = env
        always_legal = getattr(env, "legal_action_mask", None)
        self._has_mask = always_legal is None or not np.all(always_legal)
        state = jax.eval_shape(env.init, jax.random.key(0))
        self.action_space = Discrete(state.legal_action_mask.shape[0])
        self.obs_shape = tuple(state.observation.shape)

    @property
    def unwrapped(self) -> Any:
        """The Pgx environment."""
        return self._env

    def reset(self, key: jax.Array):
        """Start a game."""
        state = self._env.init(key)
        return state, self._observe(state)

    def step(self, key: jax.Array, state: Any, action: jax.Array):
        """One move, and what the game does by itself."""
        state = self._env.step(state, action, key)
        return state, EnvStep(
            obs=self._observe(state),
            reward=state.rewards[0],
            terminated=state.terminated,
            truncated=state.truncated & ~state.terminated,
        )

    def _observe(self, state: Any) -> Any:
        if not self._has_mask:
            return state.observation
        return Observation(state.observation, action_mask=state.legal_action_mask)
