"""The data types of the learner. T steps, N environments, B = T · N transitions."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax
from flax import struct

from trpo_jax.envs.base import Obs
from trpo_jax.learner.normalization import RunningStatistics
from trpo_jax.spaces import critic_view


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class EpisodeProgress:
    """Progress of each environment's current episode, and the last mean return.

    A pytree in which `metrics` appears only if there are any, so that states of environments that
    measure nothing are as they were, on disk too.
    """

    returns: jax.Array
    """float32 [N]: undiscounted reward so far."""
    lengths: jax.Array
    """int32 [N]: steps so far."""
    discounted: jax.Array
    """float32 [N]: running discounted return, for reward normalisation."""
    num_begun: jax.Array
    """uint32 [N]: number of episodes begun in each environment, modulo 2³²."""
    last_mean_return: jax.Array
    """float32: mean return in the last update in which any episode ended."""
    any_ended: jax.Array
    """bool: whether any episode has ended yet."""
    metrics: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    """float32 [N] by name: sums of the environment's metrics so far."""

    def replace(self, **changes: Any) -> "EpisodeProgress":
        """A copy with other values in some fields."""
        return dataclasses.replace(self, **changes)

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[str, ...]]:
        """The parts and their names."""
        names = tuple(field.name for field in dataclasses.fields(self))
        names = names[:-1] if self.metrics == {} else names
        return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names], names

    @classmethod
    def tree_unflatten(cls, names: tuple[str, ...], parts: Iterable[Any]) -> "EpisodeProgress":
        """The inverse."""
        return cls(**dict(zip(names, parts, strict=True)))


class ActorState(struct.PyTreeNode):
    """The state of the environments: acting changes it, learning does not."""

    env_state: Any
    """States of the environments, [N, ...]."""
    obs: Obs
    """Their current observations, not normalised; leaves [N, ...]."""
    episodes: EpisodeProgress
    """Progress of the current episodes."""


class TrainState(struct.PyTreeNode):
    """The complete state of a run: an immutable pytree that keeps its types in every update."""

    key: jax.Array
    """Random key for future updates."""
    num_updates: jax.Array
    """int32: updates done. Environment steps are this times B, so no step counter can overflow."""
    policy_params: Any
    """Parameters of π."""
    value_params: Any
    """Parameters of V."""
    value_opt_state: Any
    """State of the value fit: Adam's, or () for L-BFGS."""
    policy_step_state: Any
    """State of the policy step; () for TRPO with fixed damping."""
    obs_statistics: RunningStatistics
    """Statistics of the observations up to the last update; leaves shaped like one observation."""
    return_statistics: RunningStatistics
    """Statistics of the running discounted return; leaves []."""
    actor: ActorState
    """Environments, observations, episodes."""


class Trajectory(struct.PyTreeNode):
    """The record of a rollout, time first."""

    policy_version: jax.Array
    """int32 [T, N]: `num_updates` of the policy that acted; learning refuses any other version."""
    obs: Obs
    """Leaves [T, N, ...] in the environment's types, not normalised; NaN and ±∞ are replaced by
    0."""
    next_obs: Obs
    """The same after the action, *before* any automatic reset."""
    action: jax.Array
    """[T, N] or [T, N, dimensions]: as sampled, before clipping or squashing."""
    log_prob: jax.Array
    """float32 [T, N]: log π_old(action|obs)."""
    distribution: Any
    """The `Distribution` π_old(·|obs), leaves [T, N, ...]."""
    reward: jax.Array
    """float32 [T, N], not normalised; NaN and ±∞ are replaced by 0."""
    terminated: jax.Array
    """bool [T, N]: the episode ended in a terminal state, whose value is 0."""
    truncated: jax.Array
    """bool [T, N]: the episode was cut off without terminating; next_obs keeps its value."""
    valid: jax.Array
    """bool [T, N]: observation, reward and next observation were finite, and the observation's mask
    allowed an action. Invalid transitions never count."""
    episode_return: jax.Array
    """float32 [T, N]: undiscounted reward of the episode up to and including this step."""
    episode_length: jax.Array
    """int32 [T, N]: steps of the episode up to and including this one."""
    metrics: dict[str, jax.Array] = struct.field(default_factory=dict)
    """float32 [T, N] by name: what the environment measured; NaN and ±∞ are replaced by 0."""
    episode_metrics: dict[str, jax.Array] = struct.field(default_factory=dict)
    """float32 [T, N] by name: their means over the episode up to and including this step."""


class Batch(struct.PyTreeNode):
    """A flattened trajectory, ready for the policy step and the value fit; leaves [B, ...].

    Environment by environment: row n · T + t is step t of environment n.
    """

    obs: Obs
    """Observations as the networks see them, [B, ...], normalised with the statistics of the
    rollout. Policy and critic each take their part."""
    action: jax.Array
    """[B] or [B, dimensions]."""
    distribution: Any
    """π_old(·|obs), recomputed from the current parameters."""
    log_prob: jax.Array
    """float32 [B]: log π_old(action|obs), recomputed likewise."""
    entropy: jax.Array
    """float32 [B]: entropy of π_old(·|obs)."""
    advantage: jax.Array
    """float32 [B], normalised if configured."""
    value: jax.Array
    """float32 [B]: V(obs) before the fit."""
    value_target: jax.Array
    """float32 [B]."""
    weight: jax.Array
    """float32 [B]: 1 for valid transitions, 0 for invalid ones."""

    @property
    def critic_obs(self) -> Obs:
        """The part of `obs` that the critic sees."""
        return critic_view(self.obs)
