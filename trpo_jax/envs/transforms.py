"""Time limits, repeated actions, chosen coordinates, scaled rewards and stacked frames.

A transform is written once: it changes what one JAX environment returns, as part of the traced
program, and what M environments that step in numpy return.
"""

import abc
import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.common.checks import is_number, is_whole_number, require_whole_number
from trpo_jax.envs.base import (
    Environment,
    EnvState,
    EnvStep,
    Obs,
    like,
    observation_spec,
    strongly_typed,
)
from trpo_jax.spaces import Observation, is_shape, shapes_of

Memory = Any


class Transform:
    """Changes what an environment returns, with a memory that lasts for one episode.

    Arrays have the leading axes `lead`: none in a JAX environment, (M,) for M environments on the
    host. numpy in, numpy out; JAX in, JAX out. Only the policy's part of an observation changes;
    the critic's part and the mask stay.
    """

    def begin(self, obs: Obs, lead: tuple[int, ...] = ()) -> tuple[Memory, Obs]:
        """First observation -> (memory, observation). The memory is a tree of [*lead, ...]."""
        return (), obs

    def after(self, memory: Memory, step: EnvStep) -> tuple[Memory, EnvStep]:
        """(memory, what the environment returned) -> (new memory, what is returned instead)."""
        return memory, step

    def obs_spec(self, spec: Obs) -> Obs:
        """Shapes and types of one observation, trees of `ShapeDtypeStruct`: before -> after."""
        return spec

    def step_limit(self, limit: int | None) -> int | None:
        """`max_episode_steps`: before -> after."""
        return limit

    def costs(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the costs: before -> after."""
        return names


@dataclasses.dataclass(frozen=True)
class TimeLimit(Transform):
    """Truncates an episode after `steps` steps, if it has not ended earlier."""

    steps: int

    def begin(self, obs: Obs, lead: tuple[int, ...] = ()) -> tuple[Memory, Obs]:
        """The memory counts the steps."""
        return _numpy_of(obs).zeros(lead, np.int32), obs

    def after(self, memory: Memory, step: EnvStep) -> tuple[Memory, EnvStep]:
        """At the limit `truncated` is set; `terminated` stays as it is."""
        time = memory + 1
        return time, step._replace(truncated=step.truncated | (time >= self.steps))

    def step_limit(self, limit: int | None) -> int | None:
        """The smaller of both limits."""
        return self.steps if limit is None else min(limit, self.steps)


@dataclasses.dataclass(frozen=True)
class Observe(Transform):
    """Keeps some coordinates of an observation that is one vector."""

    indices: tuple[int, ...]

    def begin(self, obs: Obs, lead: tuple[int, ...] = ()) -> tuple[Memory, Obs]:
        """There is no memory."""
        return (), _of_policy(self._choose, obs)

    def after(self, memory: Memory, step: EnvStep) -> tuple[Memory, EnvStep]:
        """Only the observation changes."""
        return memory, step._replace(obs=_of_policy(self._choose, step.obs))

    def obs_spec(self, spec: Obs) -> Obs:
        """[d] -> [number of indices]."""
        return _of_policy(lambda leaf: _resized(leaf, (len(self.indices),)), spec)

    def _choose(self, obs: Any) -> Any:
        return obs[..., np.asarray(self.indices)]


@dataclasses.dataclass(frozen=True)
class RewardScale(Transform):
    """Multiplies rewards by `factor`."""

    factor: float

    def after(self, memory: Memory, step: EnvStep) -> tuple[Memory, EnvStep]:
        """Only the reward changes."""
        return memory, step._replace(reward=step.reward * self.factor)


@dataclasses.dataclass(frozen=True)
class FrameStack(Transform):
    """Shows the last `frames` observations side by side on the last axis, the oldest first.

    [d] becomes [frames · d]; an image [height, width, channels] becomes [height, width, frames ·
    channels]; a number and an image without channels get a last axis for the frames. In a tree,
    each leaf is stacked by itself. After a reset all frames are the first observation.
    """

    frames: int

    def begin(self, obs: Obs, lead: tuple[int, ...] = ()) -> tuple[Memory, Obs]:
        """The memory is the stack itself."""

        def repeat(leaf: Any) -> Any:
            xp = _numpy_of(leaf)
            frame = xp.asarray(leaf)
            if _lacks_last_axis(frame.ndim - len(lead)):
                frame = frame[..., None]
            return xp.concatenate([frame] * self.frames, axis=-1)

        stacked = _of_policy(lambda part: jax.tree.map(repeat, part), obs)
        return _policy_of(stacked), stacked

    def after(self, memory: Memory, step: EnvStep) -> tuple[Memory, EnvStep]:
        """The oldest frame is dropped and the newest appended."""

        def push(stack: Any, leaf: Any) -> Any:
            xp = _numpy_of((stack, leaf))
            frame = xp.asarray(leaf, stack.dtype)
            frame = frame if frame.ndim == stack.ndim else frame[..., None]
            return xp.concatenate([stack[..., frame.shape[-1] :], frame], axis=-1)

        stacked = jax.tree.map(push, memory, _policy_of(step.obs))
        return stacked, step._replace(obs=_of_policy(lambda _: stacked, step.obs))

    def obs_spec(self, spec: Obs) -> Obs:
        """The last axis is `frames` times as long."""

        def widen(leaf: Any) -> jax.ShapeDtypeStruct:
            shape = (*leaf.shape, 1) if _lacks_last_axis(len(leaf.shape)) else leaf.shape
            return _resized(leaf, (*shape[:-1], self.frames * shape[-1]))

        return _of_policy(lambda part: jax.tree.map(widen, part), spec)


def _lacks_last_axis(num_axes: int) -> bool:
    """Whether an observation is a number, or an image without an axis for its channels."""
    return num_axes in (0, 2)


def _resized(leaf: Any, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def _policy_of(obs: Obs) -> Any:
    return obs.policy if isinstance(obs, Observation) else obs


def _of_policy(fn: Callable[[Any], Any], obs: Obs) -> Obs:
    """The observation with `fn` applied to the policy's part."""
    return obs._replace(policy=fn(obs.policy)) if isinstance(obs, Observation) else fn(obs)


def _numpy_of(tree: Any) -> Any:
    """`jax.numpy` if a leaf is JAX's, else `numpy`."""
    return jnp if any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree)) else np


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


def num_decisions(num_steps: int | None, action_repeat: int) -> int | None:
    """Number of actions in `num_steps` steps, each repeated; None if there is no limit."""
    return None if num_steps is None else -(-num_steps // action_repeat)


def transforms_for(
    obs_shape: Any,
    *,
    max_steps: int | None = None,
    observe: Sequence[int] | None = None,
    reward_scale: float = 1.0,
    frame_stack: int = 1,
) -> tuple[Transform, ...]:
    """The transforms that settings ask for, in order; `max_steps` counts actions.

    Raises `ValueError` for values that cannot work with observations of `obs_shape`.
    """
    if not is_number(reward_scale) or not math.isfinite(reward_scale) or reward_scale == 0:
        raise ValueError(f"reward_scale={reward_scale!r} must be a finite number other than 0")
    require_whole_number("frame_stack", frame_stack)
    transforms: list[Transform] = []
    if max_steps is not None:
        transforms.append(TimeLimit(int(max_steps)))
    if observe is not None:
        transforms.append(Observe(_indices(observe, obs_shape)))
    if reward_scale != 1:
        transforms.append(RewardScale(float(reward_scale)))
    if frame_stack > 1:
        transforms.append(FrameStack(int(frame_stack)))
    return tuple(transforms)


def _indices(observe: Any, obs_shape: Any) -> tuple[int, ...]:
    if not is_shape(obs_shape) or len(obs_shape) != 1:
        raise ValueError(
            f"observe={observe!r} chooses coordinates of one vector, but observations have shape "
            f"{obs_shape}; leave observe out"
        )
    size = obs_shape[0]
    listed = observe.tolist() if isinstance(observe, np.ndarray) else observe
    valid = isinstance(listed, list | tuple | range) and all(
        is_whole_number(index) and 0 <= index < size for index in listed
    )
    if not valid or len(listed) == 0:
        raise ValueError(
            f"observe={observe!r} must be a tuple of whole numbers from 0 to {size - 1}, such as "
            f"{tuple(range(min(size, 2)))}"
        )
    return tuple(int(index) for index in listed)


def transformed_shape(obs_shape: Any, transforms: Sequence[Transform]) -> Any:
    """`Environment.obs_shape`: before -> after the transforms."""
    spec = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape, np.float32), obs_shape, is_leaf=is_shape
    )
    for transform in transforms:
        spec = transform.obs_spec(spec)
    return shapes_of(spec)
