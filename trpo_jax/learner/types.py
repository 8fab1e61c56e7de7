"""What flows through the program. T steps, N environments, B = T · N transitions."""

from typing import Any

import jax
from flax import struct

from trpo_jax.envs.base import Obs
from trpo_jax.learner.normalization import RunningStatistics
from trpo_jax.spaces import critic_view


class EpisodeProgress(struct.PyTreeNode):
    """How far each environment's current episode is, and what the last ones returned."""

    returns: jax.Array
    """float32 [N]: undiscounted reward so far."""
    lengths: jax.Array
    """int32 [N]: steps so far."""
    discounted: jax.Array
    """float32 [N]: running discounted return, for reward normalisation."""
    num_begun: jax.Array
    """uint32 [N]: episodes that each environment has begun, modulo 2³²."""
    last_mean_return: jax.Array
    """float32: mean return of the episodes that ended in the last update in which any did."""
    any_ended: jax.Array
    """bool: whether an episode has ended at all."""


class ActorState(struct.PyTreeNode):
    """Where the environments stand: what acting moves on, and learning does not."""

    env_state: Any
    """States of the environments, [N, ...]."""
    obs: Obs
    """What they show, not normalised, leaves [N, ...]."""
    episodes: EpisodeProgress
    """Bookkeeping of the episodes in progress."""


class TrainState(struct.PyTreeNode):
    """Everything that a run is: immutable, a pytree, with the same types after every update."""

    key: jax.Array
    """Random key for the updates to come."""
    num_updates: jax.Array
    """int32: updates done. Environment steps are this times B: no counter of them overflows."""
    policy_params: Any
    """Parameters of π."""
    value_params: Any
    """Parameters of V."""
    value_opt_state: Any
    """What the value fit carries from update to update: Adam's state; () for L-BFGS."""
    policy_step_state: Any
    """What the policy step carries from update to update; () for TRPO with a fixed damping."""
    obs_statistics: RunningStatistics
    """Of the observations up to the last update; leaves shaped like one observation."""
    return_statistics: RunningStatistics
    """Of the running discounted return; leaves []."""
    actor: ActorState
    """Environments, observations, episodes."""


class Trajectory(struct.PyTreeNode):
    """What a rollout recorded, time first."""

    policy_version: jax.Array
    """int32 [T, N]: `num_updates` of the policy that acted; learning refuses any other version."""
    obs: Obs
    """Leaves [T, N, ...] in the environment's types, not normalised. Values that are not finite
    are replaced by 0."""
    next_obs: Obs
    """The same, after the action and *before* any automatic reset."""
    action: jax.Array
    """[T, N] or [T, N, dimensions]: as sampled, before clipping or squashing."""
    log_prob: jax.Array
    """float32 [T, N]: log π_old(action|obs)."""
    distribution: Any
    """The `Distribution` π_old(·|obs), leaves [T, N, ...]."""
    reward: jax.Array
    """float32 [T, N], not normalised. Values that are not finite are replaced by 0."""
    terminated: jax.Array
    """bool [T, N]: ended in a terminal state, whose value is 0."""
    truncated: jax.Array
    """bool [T, N]: cut off, and not terminated; the value of next_obs goes on."""
    valid: jax.Array
    """bool [T, N]: observation, reward and next observation were finite, and the mask of the
    observation allowed an action. Others never count."""
    episode_return: jax.Array
    """float32 [T, N]: undiscounted reward of the episode up to and including this step."""
    episode_length: jax.Array
    """int32 [T, N]: steps of the episode up to and including this one."""


class Batch(struct.PyTreeNode):
    """A flattened trajectory, ready for the policy step and the value fit; leaves [B, ...].

    Environment by environment: row n · T + t is step t of environment n.
    """

    obs: Obs
    """As the networks see it, [B, ...]: normalised by the statistics that the rollout used. The
    policy and the critic each take their part."""
    action: jax.Array
    """[B] or [B, dimensions]."""
    distribution: Any
    """π_old(·|obs), computed from the parameters at hand."""
    log_prob: jax.Array
    """float32 [B]: log π_old(action|obs), likewise."""
    entropy: jax.Array
    """float32 [B]: entropy of π_old(·|obs)."""
    advantage: jax.Array
    """float32 [B], normalised if the configuration says so."""
    value: jax.Array
    """float32 [B]: V(obs) before the fit."""
    value_target: jax.Array
    """float32 [B]."""
    weight: jax.Array
    """float32 [B]: 1 for valid transitions, 0 for others."""

    @property
    def critic_obs(self) -> Obs:
        """What the critic sees of `obs`."""
        return critic_view(self.obs)
