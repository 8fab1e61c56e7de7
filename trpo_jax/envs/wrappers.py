"""Environments around other environments: transforms, repeated actions, and what is inside."""

import abc
import copy
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from trpo_jax.common.checks import require_whole_number
from trpo_jax.envs.base import (
    Environment,
    EnvState,
    Obs,
    like,
    observation_spec,
    strongly_typed,
)
from trpo_jax.envs.transforms import (
    FrameStack,
    Memory,
    Transform,
    num_decisions,
    transformed_shape,
    transforms_for,
)


class Wrapper(Environment):
    """An environment around another, `env`, whose attributes it has unless it sets its own."""

    def __init__(self, env: Environment):
        self.env = env
        self.name, self.action_space, self.obs_shape = env.name, env.action_space, env.obs_shape
        self.max_episode_steps, self.costly_reset = env.max_episode_steps, env.costly_reset

    @abc.abstractmethod
    def inner_state(self, state: EnvState) -> EnvState:
        """The state of `env` within a state of this environment."""

    @property
    def unwrapped(self) -> Any:
        """The suite's own object, or else the innermost environment."""
        return getattr(self.env, "unwrapped", self.env)

    def measuring(self, names: Sequence[str]) -> Self:
        """The same, asking the environment inside to report these metrics if it can."""
        inner = getattr(self.env, "measuring", None)
        if inner is None:
            return self
        other = copy.copy(self)
        other.env = inner(names)
        return other

    @property
    def parameters(self) -> Any:
        """The parameters of the innermost environment, if it has any."""
        inner: Any = self.env
        return inner.parameters

    def with_parameters(self, parameters: Any) -> Self:
        """The same environment with other parameters inside."""
        other, inner = copy.copy(self), self.env
        other.recipe = None
        other.env = inner.with_parameters(parameters)  # type: ignore[attr-defined]
        return other


def innermost(env: Environment) -> Environment:
    """The environment inside all wrappers."""
    while isinstance(env, Wrapper):
        env = env.env
    return env


def innermost_state(env: Environment, state: EnvState) -> EnvState:
    """The state of the innermost environment within a state of `env`."""
    while isinstance(env, Wrapper):
        state, env = env.inner_state(state), env.env
    return state


class TransformedState(NamedTuple):
    """State of a `Transformed` environment."""

    inner: EnvState
    memories: tuple[Memory, ...]
    """One per transform."""


class Transformed(Wrapper):
    """A JAX environment whose observations, rewards and ends pass through transforms in turn."""

    def __init__(self, env: Environment, transforms: Sequence[Transform]):
        super().__init__(env)
        self.transforms = tuple(transforms)
        self.obs_shape = transformed_shape(env.obs_shape, self.transforms)
        for transform in self.transforms:
            self.max_episode_steps = transform.step_limit(self.max_episode_steps)
        self._keeps_obs = any(isinstance(transform, FrameStack) for transform in self.transforms)

    def reset(self, key: jax.Array):
        """Start an episode."""
        inner, obs = self.env.reset(key)
        obs = self._in_type(obs)
        memories = []
        for transform in self.transforms:
            memory, obs = transform.begin(obs)
            memories.append(memory)
        return TransformedState(inner, tuple(memories)), obs

    def step(self, key: jax.Array, state: TransformedState, action: jax.Array):
        """One step."""
        inner, step = self.env.step(key, state.inner, action)
        step = step._replace(obs=self._in_type(step.obs))
        memories = []
        for transform, memory in zip(self.transforms, state.memories, strict=True):
            memory, step = transform.after(memory, step)
            memories.append(memory)
        return TransformedState(inner, tuple(memories)), step

    def inner_state(self, state: TransformedState) -> EnvState:
        """The state of `env`."""
        return state.inner

    def _in_type(self, obs: Obs) -> Obs:
        """If frames are kept, they have one type from reset on."""
        if not self._keeps_obs:
            return obs
        spec = observation_spec(self.env)
        return jax.tree.map(lambda leaf, wanted: jnp.asarray(leaf, wanted.dtype), obs, spec)


class Repeated(Wrapper):
    """A JAX environment in which an action lasts for `times` steps, or until the episode ends.

    Rewards and costs are summed over the steps that were taken; metrics are those of the last one.
    """

    def __init__(self, env: Environment, times: int):
        require_whole_number("times", times)
        super().__init__(env)
        self.times = times
        self.max_episode_steps = num_decisions(env.max_episode_steps, times)

    def reset(self, key: jax.Array):
        """Start an episode."""
        return self.env.reset(key)

    def step(self, key: jax.Array, state: EnvState, action: jax.Array):
        """Up to `times` steps."""
        state = jax.tree.map(strongly_typed, state)

        def once(carried: tuple[EnvState, jax.Array], key: jax.Array):
            before, alive = carried
            # brax's step writes into the dictionaries it is given.
            after, step = self.env.step(key, jax.tree.map(jnp.asarray, before), action)
            after = jax.tree.map(
                lambda old, new: jnp.where(alive, like(old, new), old), before, after
            )
            ends = jnp.asarray(step.terminated, bool) | jnp.asarray(step.truncated, bool)
            return (after, alive & ~ends), (step, alive)

        keys = jax.random.split(key, self.times)
        (state, _), (steps, taken) = jax.lax.scan(once, (state, jnp.bool_(True)), keys)
        num_taken = jnp.sum(taken)
        last = jax.tree.map(lambda leaf: leaf[num_taken - 1], steps)

        reward, cost = jax.tree.map(
            lambda leaf: jnp.sum(jnp.where(taken, leaf, 0)), (steps.reward, steps.cost)
        )
        return state, last._replace(reward=reward, cost=cost)

    def inner_state(self, state: EnvState) -> EnvState:
        """The state of `env`."""
        return state


def transformed(
    env: Environment,
    *,
    episode_length: int | None = None,
    action_repeat: int = 1,
    observe: Sequence[int] | None = None,
    reward_scale: float = 1.0,
    frame_stack: int = 1,
) -> Environment:
    """The environment with these changes; `env` itself if none is asked for.

    episode_length: truncates after that many steps of `env`, counted before repetition, so that a
    decision is ⌈episode_length / action_repeat⌉ steps away from it at most. action_repeat: each
    action lasts for that many steps, or until the episode ends; rewards are summed. observe:
    indices of the coordinates that the policy sees. reward_scale: factor of every reward.
    frame_stack: number of observations that are shown together (`FrameStack`).
    Raises `ValueError` for values that cannot work with `env`; traces nothing.

    An environment with a method `with_transforms(transforms, action_repeat)` is asked for the
    result; any other is wrapped.
    """
    require_whole_number("action_repeat", action_repeat)
    transforms = transforms_for(
        env.obs_shape,
        max_steps=_decisions_until(episode_length, action_repeat),
        observe=observe,
        reward_scale=reward_scale,
        frame_stack=frame_stack,
    )
    if not transforms and action_repeat == 1:
        return env
    with_transforms = getattr(env, "with_transforms", None)
    if with_transforms is not None:
        return with_transforms(transforms, action_repeat)
    inner = Repeated(env, action_repeat) if action_repeat > 1 else env
    return Transformed(inner, transforms) if transforms else inner


def _decisions_until(episode_length: int | None, action_repeat: int) -> int | None:
    if episode_length is not None:
        require_whole_number("episode_length", episode_length)
    return num_decisions(episode_length, action_repeat)
