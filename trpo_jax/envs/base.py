"""What an environment owes us, and the automatic reset that every environment shares."""

import abc
import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

EnvState = Any


@dataclasses.dataclass(frozen=True)
class Discrete:
    """Actions 0 … num_actions − 1."""

    num_actions: int


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """A vector of independent choices; dimension i has num_categories[i] of them."""

    num_categories: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Box:
    """Real vectors (of any shape) between two bounds, either of which may be infinite."""

    low: Any
    high: Any
    shape: tuple[int, ...]

    @property
    def num_dimensions(self) -> int:
        """Number of real components of an action."""
        return math.prod(self.shape)

    def from_policy(self, action: jax.Array, bounds: str) -> jax.Array:
        """Bring an unbounded policy action [..., dimensions] into the box, [..., *shape].

        Where both bounds are finite, −1 and 1 are mapped to them, after clipping
        (`bounds="clip"`) or tanh (`bounds="tanh"`). Otherwise the action is only clipped.
        """
        low = jnp.broadcast_to(jnp.asarray(self.low, jnp.float32), self.shape).reshape(-1)
        high = jnp.broadcast_to(jnp.asarray(self.high, jnp.float32), self.shape).reshape(-1)
        bounded = jnp.asarray(self._bounded())
        unit = jnp.tanh(action) if bounds == "tanh" else jnp.clip(action, -1, 1)
        span = jnp.where(bounded, high - low, 0)
        inside = jnp.where(bounded, low, 0) + span * (unit + 1) / 2
        boxed = jnp.where(bounded, inside, action)
        return jnp.clip(boxed, low, high).reshape(*action.shape[:-1], *self.shape)

    def _bounded(self) -> np.ndarray:
        bounds = np.broadcast_to(self.low, self.shape), np.broadcast_to(self.high, self.shape)
        return np.logical_and(*(np.abs(bound) < 1e30 for bound in bounds)).reshape(-1)


ActionSpace = Discrete | MultiDiscrete | Box


class EnvStep(NamedTuple):
    """What one step of an environment returns, before any automatic reset."""

    obs: jax.Array
    """The observation that the action led to, also when it ended the episode."""
    reward: jax.Array
    """Scalar."""
    terminated: jax.Array
    """bool: the episode reached a terminal state; nothing follows, its value is zero."""
    truncated: jax.Array
    """bool: the episode was cut off, by a time limit say; its value goes on. Termination wins."""


class Environment(abc.ABC):
    """One environment as pure functions of its state. Subclass it to write your own.

    An example, a corridor of five cells in which the agent starts at 0 and is paid at the end:

        class Corridor(Environment):
            name = "corridor"
            obs_shape = (1,)
            action_space = Discrete(2)
            max_episode_steps = 20

            def reset(self, key):
                return {"cell": jnp.int32(0), "time": jnp.int32(0)}, jnp.zeros(1)

            def step(self, key, state, action):
                cell = jnp.clip(state["cell"] + 2 * action - 1, 0, 4)
                time = state["time"] + 1
                return {"cell": cell, "time": time}, EnvStep(
                    obs=cell[None] / 4,
                    reward=jnp.float32(cell == 4),
                    terminated=cell == 4,
                    truncated=time >= self.max_episode_steps,
                )

    Neither function resets by itself; `vmap`, `jit` and the automatic reset are the library's.
    Instances are compared by identity: make one and keep it, or every new one compiles anew.
    """

    name: str
    """How the environment is called in messages and run directories."""
    obs_shape: tuple[int, ...]
    """Shape of one observation; () is not allowed."""
    action_space: ActionSpace
    """Discrete, MultiDiscrete or Box."""
    max_episode_steps: int | None = None
    """Time limit that `step` enforces by truncation, if it has one."""
    costly_reset: bool = False
    """A reset costs about as much as a step, so that one for every step would be dear."""

    @abc.abstractmethod
    def reset(self, key: jax.Array) -> tuple[EnvState, jax.Array]:
        """key -> (state, obs): the beginning of an episode."""

    @abc.abstractmethod
    def step(self, key: jax.Array, state: EnvState, action: jax.Array) -> tuple[EnvState, EnvStep]:
        """(key, state, action) -> (next state, what happened). Never resets.

        The action is an int32 scalar (Discrete), int32 [dimensions] (MultiDiscrete) or float32
        [*shape] inside the bounds (Box).
        """


def reset_batch(env: Environment, keys: jax.Array) -> tuple[EnvState, jax.Array]:
    """Begin N episodes from keys [N]: states and float32 observations, leading axis N."""
    states, obs = jax.vmap(env.reset)(keys)
    return jax.tree.map(strongly_typed, states), jnp.asarray(obs, jnp.float32)


def step_batch(
    env: Environment, keys: jax.Array, states: EnvState, actions: jax.Array
) -> tuple[EnvState, EnvStep]:
    """Step N environments with keys [N], without reset.

    Observations and rewards come back as float32, flags as bool, `truncated` only where the
    episode has not terminated. An environment whose observation or reward is not finite is
    truncated: a simulation that blew up starts again instead of poisoning the rest of the run.
    """
    next_states, step = jax.vmap(env.step)(keys, states, actions)
    next_states = jax.tree.map(like, states, next_states)
    obs = jnp.asarray(step.obs, jnp.float32)
    terminated = jnp.asarray(step.terminated, bool)
    reward = jnp.asarray(step.reward, jnp.float32)
    finite = jnp.all(jnp.isfinite(obs.reshape(obs.shape[0], -1)), axis=-1) & jnp.isfinite(reward)
    return next_states, EnvStep(
        obs=obs,
        reward=reward,
        terminated=terminated,
        truncated=(jnp.asarray(step.truncated, bool) | ~finite) & ~terminated,
    )


def where_done(done: jax.Array, fresh: Any, current: Any) -> Any:
    """For each of N environments `fresh` if it is done, else `current`; trees of [N, ...]."""

    def pick(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(done.reshape(-1, *(1,) * (old.ndim - 1)), new, old)

    return jax.tree.map(pick, fresh, current)


def strongly_typed(leaf: Any) -> jax.Array:
    """An array without weak type, so that the state a scan carries keeps its type."""
    array = jnp.asarray(leaf)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array
    return jax.lax.convert_element_type(array, array.dtype)


def like(before: jax.Array, after: Any) -> jax.Array:
    """`after` in the type of `before`, if no information is lost."""
    after = jnp.asarray(after)
    if after.shape != before.shape or (
        after.dtype != before.dtype and not np.can_cast(after.dtype, before.dtype, "same_kind")
    ):
        raise ValueError(
            f"a leaf of the environment's state is {before.dtype}{before.shape} after reset "
            f"but {after.dtype}{after.shape} after step; return the same type from both"
        )
    return after if after.dtype == before.dtype else after.astype(before.dtype)
