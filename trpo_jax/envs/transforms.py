"""Time limits, repeated actions, chosen coordinates, scaled rewards and stacked frames.

A transform is written once: it changes what one JAX environment returns, as part of the traced
program, and what M environments that step in numpy return.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trpo_jax.common.checks import is_number, is_whole_number, require_whole_number
from trpo_jax.envs.base import (
    EnvStep,
    Obs,
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
